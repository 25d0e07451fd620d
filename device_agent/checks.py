"""Runs a release's health checks, once each, within their time limits."""

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, urlsplit

from device_agent.processes import base_environment, describe_exit, resolve_command, run
from device_agent.seams import ReleaseContext
from schemas.errors import DeviceError, one_line
from schemas.manifest import CommandCheck, Health, HealthCheck, HttpCheck, SystemdCheck, TcpCheck
from schemas.templates import fill

MAX_BODY_BYTES: Final = 1024 * 1024
"""How much of an answer is searched for `contains`."""
MAX_REASON: Final = 200
"""Characters of an answer of the wrong status that are told, where an application may say why."""
_REASON_BYTES: Final = 4096
"""How much of such an answer is read."""
_MAX_HEAD_LINES: Final = 256
_MAX_LINE_BYTES: Final = 64 * 1024


class ReleaseProbe:
    """The `HealthProbe` that asks the real thing."""

    async def check(self, health: Health, context: ReleaseContext) -> None:
        """One round; raises `DeviceError` for the first check that does not pass."""
        for check in health.checks:
            await _check(check, context)


async def _check(check: HealthCheck, context: ReleaseContext) -> None:
    match check:
        case CommandCheck():
            await _command(check, context)
        case HttpCheck():
            await _http(check, context)
        case TcpCheck():
            await _tcp(check, context)
        case SystemdCheck():
            await _systemd(check)


async def _command(check: CommandCheck, context: ReleaseContext) -> None:
    where = f"health command of {context.package} {context.version}"
    environment = {**base_environment(), **context.environment}
    command = resolve_command(
        [fill(argument, context.values, where) for argument in check.command],
        folder=context.folder,
        state_folder=context.state_folder,
        path=environment["PATH"],
        code="health.command",
        where=where,
    )
    try:
        finished = await run(
            command, folder=context.folder, environment=environment, timeout_s=check.timeout_s, grace_s=1.0
        )
    except (OSError, ValueError) as error:
        raise DeviceError("health.command", f"{where} cannot be started: {one_line(error)}") from error
    if finished.code is None:
        raise DeviceError("health.command", f"{where} took longer than {check.timeout_s:g} s", log_tail=finished.output)
    if finished.code != 0:
        raise DeviceError("health.command", f"{where} {describe_exit(finished.code)}", log_tail=finished.output)


async def _systemd(check: SystemdCheck) -> None:
    where = f"health check of unit {check.unit}"
    environment = {**base_environment(), "LC_ALL": "C"}
    try:
        async with asyncio.timeout(check.timeout_s):
            process = await asyncio.create_subprocess_exec(
                "systemctl",
                "is-active",
                "--",
                check.unit,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                state, _ = await process.communicate()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
    except TimeoutError as error:
        raise DeviceError("health.systemd", f"{where}: no answer within {check.timeout_s:g} s") from error
    except OSError as error:
        raise DeviceError("health.systemd", f"{where}: there is no systemctl on this device") from error
    if process.returncode != 0:
        raise DeviceError("health.systemd", f"{where}: it is {one_line(state.decode(errors='replace')) or 'unknown'}")


async def _tcp(check: TcpCheck, context: ReleaseContext) -> None:
    where = f"health port of {context.package} {context.version}"
    host, text = fill(check.host, context.values, where), fill(check.port, context.values, where)
    where = f"{where}, {one_line(host)}:{one_line(text)}"
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:6]) < 65536):
        raise DeviceError("health.tcp", f"{where}: the port is not a number from 1 to 65535")
    try:
        async with asyncio.timeout(check.timeout_s):
            _, writer = await asyncio.open_connection(host, int(text))
    except TimeoutError as error:
        raise DeviceError("health.tcp", f"{where}: no connection within {check.timeout_s:g} s") from error
    except (OSError, ValueError) as error:  # ValueError: a host name that cannot be encoded
        raise DeviceError("health.tcp", f"{where}: {one_line(error)}") from error
    await _hang_up(writer)


async def _http(check: HttpCheck, context: ReleaseContext) -> None:
    where = f"health address of {context.package} {context.version}"
    url = fill(check.url, context.values, where)
    where = f"{where}, {one_line(url)}"
    wanted = check.contains
    answer = _Answer(limits=dict.fromkeys(check.status, MAX_BODY_BYTES if wanted is not None else 0))
    try:
        address = _address(url)
        async with asyncio.timeout(check.timeout_s):
            await _get(address, answer)
    except (TimeoutError, OSError, ValueError, EOFError) as error:
        if answer.is_right:
            why = f"no answer within {check.timeout_s:g} s" if isinstance(error, TimeoutError) else one_line(error)
            raise DeviceError("health.http", f"{where}: {why or 'the connection was closed'}") from error
    if not answer.is_right:
        expected = " or ".join(map(str, check.status))
        raise DeviceError("health.http", f"{where}: answered {answer.status} instead of {expected}{_reason(answer)}")
    if wanted is not None and wanted.encode() not in answer.body:
        raise DeviceError("health.http", f"{where}: the answer does not hold {one_line(wanted, 80)!r}")


@dataclass(slots=True, kw_only=True)
class _Answer:
    """As much of an answer as has come, whatever becomes of the rest.

    Attributes:
        limits: by each right status, how much of its body is wanted.
    """

    limits: Mapping[int, int]
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)

    @property
    def is_right(self) -> bool:
        """Whether its status is right, for all that is known."""
        return self.status is None or self.status in self.limits

    @property
    def left(self) -> int:
        """How many bytes of its body are wanted besides."""
        return self.limits.get(self.status or 0, _REASON_BYTES) - len(self.body)


def _reason(answer: _Answer) -> str:
    """The first line of an answer's body, for the end of a message; a page is not meant for a line."""
    if "html" in answer.headers.get("content-type", ""):
        return ""
    lines = answer.body.decode("utf-8", "replace").splitlines()
    first = next((text for text in (one_line(text, MAX_REASON) for text in lines) if text), "")
    return f": {first}" if first else ""


def _address(url: str) -> SplitResult:
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("not a plain URL; write other characters as %XX")
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError("not an http:// or https:// address")
    address.port  # noqa: B018  # raises ValueError where it is not a number from 0 to 65535
    return address


async def _get(address: SplitResult, answer: _Answer) -> None:
    """Fill in the answer as it comes. No redirect is followed: the manifest says which status is right."""
    assert address.hostname is not None  # noqa: S101  # for mypy; `_address` has checked it
    context = ssl.create_default_context() if address.scheme == "https" else None
    port = address.port or (443 if context else 80)
    reader, writer = await asyncio.open_connection(address.hostname, port, ssl=context, limit=_MAX_LINE_BYTES)
    try:
        target = (address.path or "/") + (f"?{address.query}" if address.query else "")
        host = address.netloc.rpartition("@")[2]
        writer.write(
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: flotilla-agent\r\n"
            "Accept: */*\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n".encode()
        )
        await writer.drain()
        status, headers = await _read_head(reader)
        while 100 <= status < 200:
            status, headers = await _read_head(reader)
        answer.status, answer.headers = status, headers
        if answer.left > 0:
            await _read_body(reader, answer)
    finally:
        await _hang_up(writer)


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    version, _, rest = (await _read_line(reader)).partition(" ")
    code = rest[:3]
    if not version.startswith("HTTP/1.") or not (code.isascii() and code.isdecimal()):
        raise ValueError("the answer is not HTTP")
    headers: dict[str, str] = {}
    for _ in range(_MAX_HEAD_LINES):
        line = await _read_line(reader)
        if not line:
            return int(code), headers
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    raise ValueError("the answer has too many header lines")


async def _read_line(reader: asyncio.StreamReader) -> str:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the connection was closed in the answer's head")
    return line.decode("latin-1").rstrip("\r\n")


async def _read_body(reader: asyncio.StreamReader, answer: _Answer) -> None:
    if answer.headers.get("transfer-encoding", "").lower() == "chunked":
        await _read_chunks(reader, answer)
        return
    length = answer.headers.get("content-length", "")
    limit = answer.left
    if length.isascii() and length.isdecimal():
        limit = min(limit, int(length[:9]))
    while len(answer.body) < limit:
        piece = await reader.read(limit - len(answer.body))
        if not piece:
            break
        answer.body += piece


async def _read_chunks(reader: asyncio.StreamReader, answer: _Answer) -> None:
    while answer.left > 0:
        size = int((await _read_line(reader)).partition(";")[0], 16)
        if size <= 0:
            break
        wanted = min(size, answer.left)
        answer.body += await reader.readexactly(wanted)
        if wanted == size:
            await _read_line(reader)


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    """Close without waiting for the other side, which may be what is ill."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
