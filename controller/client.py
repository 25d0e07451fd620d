"""A client of the controller's HTTP API, as the command line uses it. Every call is bounded."""

import http.client
import itertools
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec
import urllib3

from controller.version import VERSION
from schemas.errors import CODES, FlotillaError, NetworkError, OperatorError, one_line

T = TypeVar("T")
Query = Mapping[str, str | int | list[str] | None]

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
PREFIX: Final = "/api/v1"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457 problem details, as the controller answers them."""

    status: int = 0
    title: str = ""
    detail: str = ""
    code: str = ""


RETRIES: Final = 3
RETRY_AFTER_S: Final = 0.3
RUNNING_S: Final = 20.0
"""How long to wait for a request that is still under way after its connection broke."""

_JSON: Final = {"Content-Type": "application/json"}
"""The controller wants to be told of changes with it, body or not: pages of other sites cannot send it unasked."""


class ControllerClient:
    """Calls the API under `url` (e.g. `http://127.0.0.1:8420`), with a bearer token where one is given.

    Raises from every call:
        NetworkError: `api.unreachable`: nobody answers there.
        FlotillaError: with the code and the line that the controller answered.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout_s: float = 30.0) -> None:
        self.url = url.rstrip("/")
        _check_url(self.url)
        self._headers = {"User-Agent": f"flotilla-cli/{VERSION}"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._timeout = urllib3.Timeout(connect=5.0, read=timeout_s)
        self._pool = urllib3.PoolManager(retries=False, timeout=self._timeout)

    def get(self, type_: type[T], *path: str, query: Query | None = None) -> T:
        """GET `path`, decoded as `type_`."""
        return self._decode(self._request("GET", path, query=query), type_)

    def send(self, method: str, type_: type[T], *path: str, body: Any = None, query: Query | None = None) -> T:
        """Send `body` as JSON, decode the answer as `type_`."""
        payload = None if body is None else msgspec.json.encode(body)
        return self._decode(self._change(method, path, payload, query), type_)

    def delete(self, *path: str, query: Query | None = None) -> None:
        """DELETE `path`."""
        self._change("DELETE", path, None, query).release_conn()

    def upload(self, type_: type[T], content: BinaryIO, size: int, *path: str, query: Query | None = None) -> T:
        """POST a file's content as it is, never whole in memory; waits up to ten minutes for it to be stored."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        timeout = urllib3.Timeout(connect=5.0, read=600.0)
        return self._decode(
            self._request("POST", path, body=content, headers=headers, query=query, timeout=timeout), type_
        )

    def download(
        self, *path: str, query: Query | None = None, method: str = "GET", body: Any = None
    ) -> Iterator[bytes]:
        """GET `path` in pieces, or what a POST of `body` answers."""
        payload = None if body is None else msgspec.json.encode(body)
        answer = self._request(
            method, path, body=payload, headers=_JSON, query=query, timeout=urllib3.Timeout(connect=5.0, read=120.0)
        )
        try:
            yield from answer.stream(1 << 18)
        except urllib3.exceptions.HTTPError as error:
            raise NetworkError("api.unreachable", f"{self.url} broke off: {_reason(error)}") from error
        finally:
            answer.release_conn()

    def follow(self, *path: str, seen: list[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Connect, and give server-sent events as (event, decoded data), until the server ends the stream.

        The server sends a comment at least every 15 s, so that a silence of 60 s is an error.

        Args:
            path: where they are.
            seen: holds the id of the last event that was given, if any had one; where it does already, the server
                sends what came after that one first.
        """
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": seen[0]} if seen else {})}
        answer = self._request("GET", path, headers=headers, timeout=urllib3.Timeout(connect=5.0, read=60.0))
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            answer.close()
            raise NetworkError("api.refused", f"{self.url} is no Flotilla controller: it has no live view")
        return self._events(answer, [] if seen is None else seen)

    def _events(self, answer: urllib3.BaseHTTPResponse, seen: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        try:
            yield from server_sent(answer.stream(1 << 14, decode_content=True), seen)
        except urllib3.exceptions.HTTPError as error:
            raise NetworkError("api.unreachable", f"{self.url} broke off: {_reason(error)}") from error
        except ValueError as error:
            raise NetworkError("api.refused", f"{self.url} is no Flotilla controller: {one_line(error)}") from error
        finally:
            answer.close()

    def _change(
        self, method: str, path: tuple[str, ...], body: bytes | None, query: Query | None
    ) -> urllib3.BaseHTTPResponse:
        """Send a change; again where the connection broke before the answer was there, under the same key.

        By the key the controller knows what it has done already, and answers that. A request that is still under way
        is waited for.
        """
        headers = {**_JSON, "Idempotency-Key": secrets.token_hex(16)}
        broken = 0
        give_up = time.monotonic() + RUNNING_S
        while True:
            try:
                return self._request(method, path, body=body, headers=headers, query=query)
            except NetworkError as error:
                broken += 1
                if broken > RETRIES or not _broke_off(error):
                    raise
            except OperatorError as error:
                if error.code != "request.running" or time.monotonic() > give_up:
                    raise
            time.sleep(RETRY_AFTER_S)

    def _request(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        body: bytes | BinaryIO | None = None,
        headers: Mapping[str, str] | None = None,
        query: Query | None = None,
        timeout: urllib3.Timeout | None = None,
    ) -> urllib3.BaseHTTPResponse:
        url = self.url + PREFIX + "".join("/" + quote(part, safe="") for part in path)
        wanted = {key: value for key, value in (query or {}).items() if value not in (None, [])}
        if wanted:
            url += "?" + urlencode(wanted, doseq=True)
        try:
            answer = self._pool.request(
                method,
                url,
                body=body,
                headers={**self._headers, **(headers or {})},
                preload_content=False,
                redirect=False,
                timeout=timeout or self._timeout,
            )
        except urllib3.exceptions.HTTPError as error:
            raise NetworkError(
                "api.unreachable",
                f"no controller answers at {self.url}: {_reason(error)};"
                " is `flotilla serve` running, and --url or FLOTILLA_URL right?",
            ) from error
        if answer.status >= 300:
            raise _problem(self.url, answer)
        return answer

    def _decode(self, answer: urllib3.BaseHTTPResponse, type_: type[T]) -> T:
        try:
            payload = answer.read(MAX_ANSWER_BYTES + 1)
            if len(payload) > MAX_ANSWER_BYTES:
                raise NetworkError("api.refused", f"{self.url} answered with more than {MAX_ANSWER_BYTES} bytes")
            return msgspec.json.decode(payload, type=type_)
        except urllib3.exceptions.HTTPError as error:
            raise NetworkError("api.unreachable", f"{self.url} broke off: {_reason(error)}") from error
        except msgspec.DecodeError as error:
            raise NetworkError("api.refused", f"{self.url} is no Flotilla controller: {one_line(error)}") from error
        finally:
            answer.release_conn()


def save_atomically(pieces: Iterator[bytes], destination: Path) -> int:
    """Write a download beside its destination and rename it there when it is whole; returns its size.

    Nothing is made before the first piece is there, and nothing stays of a download that breaks off.
    """
    if not destination.name:
        raise OperatorError("input.bad", f"{str(destination)!r} is no name for a file")
    partial = destination.with_name(f".{destination.name}.{os.getpid()}.part")
    first = next(pieces, b"")
    size = 0
    try:
        with partial.open("wb") as file:
            for piece in itertools.chain([first], pieces):
                size += file.write(piece)
        partial.replace(destination)
    except OSError as error:
        raise OperatorError("input.bad", f"cannot write {destination}: {error.strerror or one_line(error)}") from error
    finally:
        partial.unlink(missing_ok=True)
    return size


def bounded(pieces: Iterator[bytes], limit: int) -> Iterator[bytes]:
    """Pass pieces through; raises `NetworkError` (`api.refused`) for more than `limit` bytes."""
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > limit:
            raise NetworkError("api.refused", f"the answer is larger than {limit} bytes")
        yield piece


def _problem(url: str, answer: urllib3.BaseHTTPResponse) -> FlotillaError:
    try:
        problem = msgspec.json.decode(answer.read(1 << 16), type=Problem)
    except (msgspec.DecodeError, urllib3.exceptions.HTTPError):
        problem = Problem()
    finally:
        answer.close()
    text = problem.detail or problem.title or f"{url} answered {answer.status}"
    return OperatorError(problem.code if problem.code in CODES else "api.refused", one_line(text))


def _broke_off(error: NetworkError) -> bool:
    """Whether the connection was there and broke: what was asked may have been done, and the answer is lost."""
    return isinstance(error.__cause__, urllib3.exceptions.ProtocolError)


def _check_url(url: str) -> None:
    try:
        parts = urllib3.util.parse_url(url)
        good = parts.scheme in ("http", "https") and bool(parts.host) and not (parts.query or parts.fragment)
    except urllib3.exceptions.HTTPError:
        good = False
    if not good or " " in url:
        raise OperatorError("input.bad", f"--url {one_line(url)!r} is no address like http://127.0.0.1:8420")


def _reason(error: BaseException) -> str:
    """What went wrong, without the wrappings of the HTTP client."""
    refused = urllib3.exceptions.NewConnectionError  # counts as a time-out there, for the sake of older callers
    if isinstance(error, urllib3.exceptions.TimeoutError) and not isinstance(error, refused):
        return "no answer in time"
    if isinstance(error, urllib3.exceptions.ProtocolError) and len(error.args) > 1:
        error = error.args[1]
    while error.__cause__ is not None and not isinstance(error, OSError):
        error = error.__cause__
    if isinstance(error, http.client.IncompleteRead):
        return "the answer broke off"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the connection was closed without an answer"
    if isinstance(error, http.client.BadStatusLine):
        return "it does not speak HTTP"
    return one_line(getattr(error, "strerror", None) or error)


def server_sent(pieces: Iterable[bytes], seen: list[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Server-sent events (WHATWG HTML, 9.2.6) with JSON objects as data, from pieces cut anywhere.

    Args:
        pieces: of the stream.
        seen: gets the id of the last event that had one, and nothing else, before that event is given.

    Raises:
        ValueError: data that is no JSON object, or an event of more than `MAX_EVENT_BYTES`.
    """
    pending, size, event, data, number = b"", 0, "message", list[str](), ""
    for piece in pieces:
        *lines, pending = (pending + piece).split(b"\n")
        for line in lines:
            text = line.rstrip(b"\r").decode(errors="replace")
            size += len(text)
            if text.startswith("event:"):
                event = text[6:].strip()
            elif text.startswith("data:"):
                data.append(text[5:])
            elif text.startswith("id:"):
                number = text[3:].strip()
            elif not text:
                if data:
                    if seen is not None and number.isascii() and number.isdigit():
                        seen[:] = [number]
                    yield event, msgspec.json.decode("\n".join(data), type=dict[str, Any])
                size, event, data = 0, "message", []
        if size + len(pending) > MAX_EVENT_BYTES:
            raise ValueError(f"an event of more than {MAX_EVENT_BYTES} bytes")
