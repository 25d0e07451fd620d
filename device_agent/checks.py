"""Runs a release's health checks, once each, within their time limits."""

import asyncio
import contextlib
import ssl
from typing import Final
from urllib.parse import SplitResult, urlsplit

from device_agent.processes import base_environment, describe_exit, resolve_command, run
from device_agent.seams import ReleaseContext
from schemas.errors import DeviceError, one_line
from schemas.manifest import CommandCheck, Health, HealthCheck, HttpCheck, SystemdCheck, TcpCheck
from schemas.templates import fill

MAX_BODY_BYTES: Final = 1024 * 1024
"""How much of an answer is searched for `contains`."""
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
    try:
        address = _address(url)
        async with asyncio.timeout(check.timeout_s):
            status, body = await _get(address, with_body=wanted is not None)
    except TimeoutError as error:
        raise DeviceError("health.http", f"{where}: no answer within {check.timeout_s:g} s") from error
    except (OSError, ValueError, EOFError) as error:
        raise DeviceError("health.http", f"{where}: {one_line(error) or 'the connection was closed'}") from error
    if status not in check.status:
        expected = " or ".join(map(str, check.status))
        raise DeviceError("health.http", f"{where}: answered {status} instead of {expected}")
    if wanted is not None and wanted.encode() not in body:
        raise DeviceError("health.http", f"{where}: the answer does not hold {one_line(wanted, 80)!r}")


def _address(url: str) -> SplitResult:
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("not a plain URL; write other characters as %XX")
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError("not an http:// or https:// address")
    address.port  # noqa: B018  # raises ValueError where it is not a number from 0 to 65535
    return address


async def _get(address: SplitResult, *, with_body: bool) -> tuple[int, bytes]:
    """Status and the body's beginning. No redirect is followed: the manifest says which status is right."""
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
        return status, await _read_body(reader, headers) if with_body else b""
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


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return await _read_chunks(reader)
    length = headers.get("content-length", "")
    limit = MAX_BODY_BYTES
    if length.isascii() and length.isdecimal():
        limit = min(limit, int(length[:9]))
    body = bytearray()
    while len(body) < limit:
        piece = await reader.read(limit - len(body))
        if not piece:
            break
        body += piece
    return bytes(body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while len(body) < MAX_BODY_BYTES:
        size = int((await _read_line(reader)).partition(";")[0], 16)
        if size <= 0:
            break
        wanted = min(size, MAX_BODY_BYTES - len(body))
        body += await reader.readexactly(wanted)
        if wanted == size:
            await _read_line(reader)
    return bytes(body)


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    """Close without waiting for the other side, which may be what is ill."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
