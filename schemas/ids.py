"""UUIDv7 strings (RFC 9562, section 5.7): sortable by time, unique without a registry."""


def uuid7(unix_ms: int, random_bytes: bytes) -> str:
    """The id for a moment and ten random bytes.

    Args:
        unix_ms: milliseconds since 1970.
        random_bytes: exactly 10 bytes from a good source.
    """
    if len(random_bytes) != 10:
        raise ValueError("ten random bytes are needed")
    value = (unix_ms & (2**48 - 1)) << 80 | int.from_bytes(random_bytes, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0b11 << 62) | 0b10 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
