"""Passwords: kept as argon2id with the parameters that RFC 9106 (section 4) recommends for 64 MiB of memory."""

import functools
import secrets
import unicodedata
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError
from argon2.profiles import RFC_9106_LOW_MEMORY

from schemas.errors import OperatorError

MIN_LENGTH: Final = 12
"""NIST SP 800-63B asks for length and nothing else."""
MAX_LENGTH: Final = 1024

_hasher: Final = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)


def check_length(password: str) -> None:
    """Raise `OperatorError` (`input.bad`) for a password that is too short or too long."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise OperatorError("input.bad", f"a password has {MIN_LENGTH} to {MAX_LENGTH} characters")


def hash_password(password: str) -> str:
    """What is kept of a password; raises `OperatorError` (`input.bad`) for one that is too short or too long."""
    check_length(password)
    return _hasher.hash(_normal(password))


def is_right(kept: str | None, password: str) -> bool:
    """Whether a password is the one that `kept` was made of; takes as long for an account that is not there (None)."""
    try:
        _hasher.verify(kept or _of_nobody(), _normal(password[: MAX_LENGTH + 1]))
    except (VerifyMismatchError, VerificationError, InvalidHashError):
        return False
    return kept is not None


def is_outdated(kept: str) -> bool:
    """Whether it was hashed with other parameters than are used now, and should be hashed again at a login."""
    return _hasher.check_needs_rehash(kept)


@functools.cache
def _of_nobody() -> str:
    """Of a password that nobody knows: checking an account that is not there takes as long as one that is."""
    return _hasher.hash(secrets.token_urlsafe())


def _normal(password: str) -> str:
    # the same letters, however a keyboard composes them
    return unicodedata.normalize("NFC", password)
