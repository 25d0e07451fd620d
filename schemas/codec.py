"""Payload bytes to typed messages and back, once, at the edge.

The rules are those of the wire contract: at most 256 KiB, a JSON object, a `schema` that this reader
knows, unknown fields ignored, an empty payload on a retained topic is a tombstone.
"""

from functools import lru_cache
from typing import Any, Final, TypeVar

import msgspec

from schemas.errors import ContractError, one_line
from schemas.messages import SCHEMA, Message

MAX_PAYLOAD: Final = 256 * 1024
CONTENT_TYPE: Final = "application/json"

_OURS: Final = f'{{"schema":{SCHEMA},'.encode()

M = TypeVar("M", bound=Message)

_encoder = msgspec.json.Encoder(order="deterministic")


class _Head(msgspec.Struct, frozen=True):
    schema: int


def encode(message: Message) -> bytes:
    """A message as UTF-8 JSON; raises `ContractError` (`message.size`) where it would be over the limit."""
    payload = _encoder.encode(message)
    if len(payload) > MAX_PAYLOAD:
        raise ContractError("message.size", f"a {type(message).__name__} of {len(payload)} bytes is over {MAX_PAYLOAD}")
    return payload


def decode(payload: bytes, kind: type[M]) -> M:
    """The message in `payload`.

    Raises:
        ContractError: `message.size`, `message.json` or `message.schema`, each with one line that names
            the field. A newer schema is told apart from a malformed message, because it asks the
            reader to be updated and not the writer to be mended.
    """
    if len(payload) > MAX_PAYLOAD:
        raise ContractError(
            "message.size", f"{kind.__name__}: {len(payload)} bytes are over the limit of {MAX_PAYLOAD}"
        )
    # What `encode` has written says its schema first; anything else is asked for it before all.
    if not payload.startswith(_OURS):
        _check_schema(payload, kind)
    try:
        message: M = _decoder(kind).decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError("message.json", f"{kind.__name__}: {_line(error)}") from error
    if message.schema > SCHEMA:  # said twice, and the last one counts
        raise _too_new(message.schema, kind)
    return message


@lru_cache(maxsize=32)
def _decoder(kind: type[Message]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def _check_schema(payload: bytes, kind: type[M]) -> None:
    try:
        head = msgspec.json.decode(payload, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError("message.json", f"{kind.__name__}: {_line(error)}") from error
    if head.schema > SCHEMA:
        raise _too_new(head.schema, kind)


def _too_new(schema: int, kind: type[M]) -> ContractError:
    return ContractError(
        "message.schema",
        f"{kind.__name__}: schema {schema} is newer than {SCHEMA}, which is all that this version reads",
    )


def decode_retained(payload: bytes, kind: type[M]) -> M | None:
    """As `decode`; None for a tombstone (an empty payload clears a retained topic)."""
    return decode(payload, kind) if payload else None


def _line(error: Exception) -> str:
    # the guard against a trailing newline is noise to a person (see schemas.names)
    return one_line(error).replace(r"(?!\\n)", "")
