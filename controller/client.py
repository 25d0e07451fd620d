"""A client of the controller's HTTP API, as the command line uses it. Every call is bounded."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec
import urllib3

from schemas.errors import CODES, FlotillaError, NetworkError, OperatorError, one_line

T = TypeVar("T")
Query = Mapping[str, str | int | list[str] | None]

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
PREFIX: Final = "/api/v1"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457 problem details, as the controller answers them."""

    status: int = 0
    title: str = ""
    detail: str = ""
    code: str = ""


class ControllerClient:
    """Calls the API under `url` (e.g. `http://127.0.0.1:8420`), with a bearer token where one is given.

    Raises from every call:
        NetworkError: `api.unreachable`: nobody answers there.
        FlotillaError: with the code and the line that the controller answered.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout_s: float = 30.0) -> None:
        self.url = url.rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise OperatorError("input.bad", f"--url {one_line(url)!r} is no http:// or https:// address")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout = urllib3.Timeout(connect=5.0, read=timeout_s)
        self._pool = urllib3.PoolManager(retries=False, timeout=self._timeout)

    def get(self, type_: type[T], *path: str, query: Query | None = None) -> T:
        """GET `path`, decoded as `type_`."""
        return self._decode(self._request("GET", path, query=query), type_)

    def send(self, method: str, type_: type[T], *path: str, body: Any = None, query: Query | None = None) -> T:
        """Send `body` as JSON, decode the answer as `type_`."""
        payload = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": "application/json"} if payload is not None else {}
        return self._decode(self._request(method, path, body=payload, headers=headers, query=query), type_)

    def delete(self, *path: str, query: Query | None = None) -> None:
        """DELETE `path`."""
        self._request("DELETE", path, query=query).release_conn()

    def upload(self, type_: type[T], content: BinaryIO, size: int, *path: str) -> T:
        """POST a file's content as it is, never whole in memory; waits up to ten minutes for it to be stored."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        timeout = urllib3.Timeout(connect=5.0, read=600.0)
        return self._decode(self._request("POST", path, body=content, headers=headers, timeout=timeout), type_)

    def download(self, *path: str, query: Query | None = None) -> Iterator[bytes]:
        """GET `path` in pieces."""
        answer = self._request("GET", path, query=query, timeout=urllib3.Timeout(connect=5.0, read=120.0))
        try:
            yield from answer.stream(1 << 18)
        except urllib3.exceptions.HTTPError as error:
            raise NetworkError("api.unreachable", f"{self.url} broke off: {one_line(error)}") from error
        finally:
            answer.release_conn()

    def follow(self, *path: str) -> Iterator[tuple[str, Any]]:
        """Server-sent events as (event, decoded data), until the server ends the stream.

        The server sends a comment at least every 15 s, so that a silence of 60 s is an error.
        """
        headers = {"Accept": "text/event-stream"}
        answer = self._request("GET", path, headers=headers, timeout=urllib3.Timeout(connect=5.0, read=60.0))
        try:
            yield from _server_sent(answer)
        except urllib3.exceptions.HTTPError as error:
            raise NetworkError("api.unreachable", f"{self.url} broke off: {one_line(error)}") from error
        finally:
            answer.close()

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
                f"no controller answers at {self.url}: {one_line(_innermost(error))};"
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
        except (msgspec.DecodeError, urllib3.exceptions.HTTPError) as error:
            raise NetworkError("api.refused", f"{self.url} is no Flotilla controller: {one_line(error)}") from error
        finally:
            answer.release_conn()


def save_atomically(pieces: Iterator[bytes], destination: Path) -> int:
    """Write a download beside its destination and rename it there when it is whole; returns its size."""
    partial = destination.with_name(f".{destination.name}.part")
    size = 0
    try:
        with partial.open("wb") as file:
            for piece in pieces:
                size += file.write(piece)
        partial.replace(destination)
    except OSError as error:
        raise OperatorError("input.bad", f"cannot write {destination}: {error.strerror or one_line(error)}") from error
    finally:
        partial.unlink(missing_ok=True)
    return size


def _problem(url: str, answer: urllib3.BaseHTTPResponse) -> FlotillaError:
    payload = answer.read(1 << 16)
    answer.release_conn()
    try:
        problem = msgspec.json.decode(payload, type=Problem)
    except msgspec.DecodeError:
        problem = Problem()
    text = problem.detail or problem.title or f"{url} answered {answer.status}"
    return OperatorError(problem.code if problem.code in CODES else "api.refused", one_line(text))


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
        error = error.reason
    return error


def _server_sent(answer: urllib3.BaseHTTPResponse) -> Iterator[tuple[str, Any]]:
    pending, event, data = b"", "message", []
    for piece in answer.stream(1 << 14, decode_content=True):
        pending += piece
        *lines, pending = pending.split(b"\n")
        if len(pending) > MAX_ANSWER_BYTES:
            return
        for line in lines:
            text = line.rstrip(b"\r").decode(errors="replace")
            if text.startswith("event:"):
                event = text[6:].strip()
            elif text.startswith("data:"):
                data.append(text[5:].strip())
            elif not text and data:
                yield event, json.loads("\n".join(data))
                event, data = "message", []
