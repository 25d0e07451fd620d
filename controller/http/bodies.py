"""Bodies of requests that change something: read whole or hashed in passing, and told without their secrets."""

import hashlib
import re
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from litestar.exceptions import HTTPException
from litestar.types import Receive, ReceiveMessage

from controller.accounts.audit import MAX_DETAIL
from schemas.errors import OperatorError

_SECRET: Final = ("password", "secret", "token")
FORM: Final = "application/x-www-form-urlencoded"
MAX_FIELDS: Final = 100
"""Of a form; none of the page's has as many."""
NUL_REFUSED: Final = "a NUL character is a part of nothing here"

_NUL_IN_FORM: Final = re.compile(rb"%00|\0")
# a backslash that is itself escaped begins no escape
_NUL_IN_JSON: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000|\0")


def has_nul(content: bytes, content_type: str) -> bool:
    """Whether a body, or a query as a form, says a NUL character: no name has one, and PostgreSQL takes none."""
    return (_NUL_IN_FORM if content_type == FORM else _NUL_IN_JSON).search(content) is not None


async def read_all(receive: Receive, limit: int) -> bytes:
    """The whole body; raises `HTTPException` (413) for more than `limit` bytes, (400) where the client has gone."""
    pieces = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HTTPException("the request broke off", status_code=400)
        pieces += message["body"]  # type: ignore[typeddict-item]  # only HTTP comes here
        if len(pieces) > limit:
            raise HTTPException(status_code=413)
        if not message.get("more_body", False):
            return bytes(pieces)


def replayed(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already, and after it what `receive` gives: that the client has gone."""
    left: list[ReceiveMessage] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Any:
        return left.pop() if left else await receive()

    return again


class Hashed:
    """A `receive` that hashes what passes through."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._hash = hashlib.sha256()
        self.complete = False

    async def __call__(self) -> Any:
        """The next message."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._hash.update(message["body"])
            self.complete = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read what is left of the body."""
        while not self.complete:
            if (await self())["type"] == "http.disconnect":
                raise HTTPException("the request broke off", status_code=400)

    def digest(self) -> bytes:
        """Of what has passed."""
        return self._hash.digest()


def hash_of(*parts: bytes) -> str:
    """One hash of several parts; where one ends and the next begins counts."""
    made = hashlib.sha256()
    for part in parts:
        made.update(len(part).to_bytes(8, "big") + part)
    return made.hexdigest()


def form_fields(body: bytes) -> dict[str, str]:
    """A form's fields, of several with one name the last; raises `OperatorError` (`input.bad`) for what is no form."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise OperatorError("input.bad", "the form has text that is not UTF-8") from error
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError as error:
        raise OperatorError("input.bad", f"the form has more than {MAX_FIELDS} fields") from error


def without_secrets(body: bytes, content_type: str) -> str:
    """What a JSON object or a form asks for, as JSON, for the audit log; empty for anything else."""
    if not body:
        return ""
    try:
        if content_type.partition(";")[0].strip().lower() == FORM:
            fields: Any = form_fields(body)
        else:
            fields = msgspec.json.decode(body)
    except (OperatorError, ValueError, msgspec.DecodeError, RecursionError):
        return ""
    if not isinstance(fields, dict):
        return ""
    shown = {key: value for key, value in fields.items() if not any(word in key.lower() for word in _SECRET)}
    text = msgspec.json.encode(shown).decode() if shown else ""
    if len(text) <= MAX_DETAIL:
        return text
    # it will be cut: short values first, so that a long one, made up or not, hides no other
    parts = sorted((msgspec.json.encode({key: value})[1:-1].decode() for key, value in shown.items()), key=len)
    return f"{{{','.join(parts)}}}"
