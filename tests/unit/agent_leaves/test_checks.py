"""Health checks: what passes, what does not, with which code and line, and within which time."""

import asyncio
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from device_agent.checks import MAX_BODY_BYTES, MAX_REASON, ReleaseProbe
from schemas.errors import DeviceError
from schemas.manifest import CommandCheck, Health, HealthCheck, HttpCheck, SystemdCheck, TcpCheck
from tests.unit.agent_leaves.builders import is_running, release_context, script

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[int]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def answering(raw: bytes, *, hold: bool = False) -> Handler:
    """Answers any request with these bytes; `hold` keeps the connection open afterwards."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        await writer.drain()
        if hold:
            await reader.read()
        writer.close()

    return handle


async def problem(tmp_path: Path, *checks: HealthCheck, **values: str) -> DeviceError | None:
    try:
        await ReleaseProbe().check(Health(checks=list(checks)), release_context(tmp_path, **values))
    except DeviceError as error:
        assert "\n" not in error.message
        return error
    return None


async def test_no_checks_is_healthy(tmp_path: Path) -> None:
    assert await problem(tmp_path) is None


async def test_a_command_passes_with_status_0_and_gets_values_and_variables(tmp_path: Path) -> None:
    context = release_context(tmp_path)
    script(context.folder, "bin/check", '[ "$1" = 8080 ] && [ "$FLOTILLA_VERSION" = 1.0.0 ]\n')
    check = CommandCheck(command=["bin/check", "${settings.port}"])
    assert await problem(tmp_path, check, settings__port="8080") is None
    failed = await problem(tmp_path, check, settings__port="1")
    assert failed is not None
    assert failed.code == "health.command"
    assert failed.message == "health command of tacho 1.0.0 ended with status 1"


async def test_a_command_over_its_time_is_ended(tmp_path: Path) -> None:
    check = CommandCheck(command=["/bin/sh", "-c", "echo $$$$; sleep 100"], timeout_s=0.5)
    failed = await problem(tmp_path, check)
    assert failed is not None
    assert (failed.code, failed.message) == (
        "health.command",
        "health command of tacho 1.0.0 took longer than 0.5 s",
    )
    assert not is_running(int(failed.log_tail))


async def test_the_first_check_that_fails_is_told(tmp_path: Path) -> None:
    failed = await problem(
        tmp_path,
        CommandCheck(command=["true"]),
        CommandCheck(command=["/bin/sh", "-c", "echo why; exit 4"]),
        TcpCheck(port="1"),
    )
    assert failed is not None
    assert failed.code == "health.command"
    assert failed.log_tail == "why\n"


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "hold", "contains"),
    [
        (OK + b"\r\n", False, None),
        (OK + b"Content-Length: 9\r\n\r\nall is ok", True, "is ok"),
        (OK + b"\r\nall is ok", False, "is ok"),
        (CHUNKED + b"5;x=y\r\nall i\r\n4\r\ns ok\r\n0\r\n\r\n", True, "is ok"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK + b"\r\n", False, None),
        (b"HTTP/1.0 200\r\n\r\n", False, None),
    ],
)
async def test_an_http_answer_that_passes(tmp_path: Path, answer: bytes, hold: bool, contains: str | None) -> None:
    async with listening(answering(answer, hold=hold)) as port:
        check = HttpCheck(url="http://127.0.0.1:${settings.port}/health?a=b", contains=contains)
        assert await problem(tmp_path, check, settings__port=str(port)) is None


@pytest.mark.parametrize(
    ("answer", "contains", "says"),
    [
        (b"HTTP/1.1 500 Oh\r\n\r\n", None, "answered 500 instead of 200 or 204"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", None, "answered 302 instead of 200 or 204"),
        (OK + b"Content-Length: 3\r\n\r\nbad", "good", "the answer does not hold 'good'"),
        (OK + b"\r\n" + b"x" * MAX_BODY_BYTES + b"good", "good", "the answer does not hold 'good'"),
        (CHUNKED + b"zz\r\n", "good", "invalid literal"),
        (b"SSH-2.0-OpenSSH\r\n", None, "the answer is not HTTP"),
        (b"", None, "the connection was closed"),
        (OK + b"X: y\r\n", None, "the connection was closed"),
        (OK + b"X: y\r\n" * 300, None, "too many header lines"),
        (OK + b"X: " + b"y" * 200_000, None, "limit"),
    ],
)
async def test_an_http_answer_that_does_not_pass(
    tmp_path: Path, answer: bytes, contains: str | None, says: str
) -> None:
    async with listening(answering(answer)) as port:
        check = HttpCheck(url=f"http://127.0.0.1:{port}/", status=(200, 204), contains=contains)
        failed = await problem(tmp_path, check)
    assert failed is not None
    assert failed.code == "health.http"
    assert says in failed.message
    assert f"127.0.0.1:{port}" in failed.message


ILL = b"HTTP/1.1 503 Oh\r\n"


@pytest.mark.parametrize(
    ("answer", "hold", "says"),
    [
        (ILL + b"\r\ndatabase is locked\nTraceback", False, ": database is locked"),
        (ILL + b"Content-Length: 6\r\n\r\nlockedmore", True, ": locked"),
        (ILL + b"\r\n\r\n \t\nlocked\x1b[31m\x00\xff by \t me\r\n", False, ": locked?[31m?\ufffd by me"),
        (ILL + b"Transfer-Encoding: chunked\r\n\r\n5\r\nlocke\r\n1\r\nd\r\n0\r\n\r\n", True, ": locked"),
        (ILL + b"\r\n" + b"x" * 10_000, True, ": " + "x" * (MAX_REASON - 1) + "\u2026"),
        (ILL + b"\r\nstill going", True, ": still going"),
        (ILL + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", False, ""),
        (ILL + b"Content-Type: text/html\r\n\r\n<!doctype html>", False, ""),
        (ILL + b"Content-Length: 0\r\n\r\n", True, ""),
    ],
)
async def test_an_answer_of_the_wrong_status_is_told_with_what_the_application_says_of_it(
    tmp_path: Path, answer: bytes, hold: bool, says: str
) -> None:
    async with listening(answering(answer, hold=hold)) as port:
        url = f"http://127.0.0.1:{port}/"
        failed = await problem(tmp_path, HttpCheck(url=url, timeout_s=0.5 if says == ": still going" else 10))
    assert failed is not None
    assert failed.message == f"health address of tacho 1.0.0, {url}: answered 503 instead of 200{says}"


@pytest.mark.parametrize(
    "value", ["x y", "x\r\nX-Evil: 1", "ä", "@", ":99999999/"], ids=["space", "lines", "umlaut", "no-host", "port"]
)
async def test_a_value_cannot_break_the_request(tmp_path: Path, value: str) -> None:
    failed = await problem(tmp_path, HttpCheck(url="http://${settings.x}"), settings__x=value)
    assert failed is not None
    assert failed.code == "health.http"


async def test_a_server_that_says_nothing_costs_no_more_than_the_limit(tmp_path: Path) -> None:
    async with listening(answering(OK + b"Content-Length: 5\r\n\r\nab", hold=True)) as port:
        begun = time.monotonic()
        failed = await problem(tmp_path, HttpCheck(url=f"http://127.0.0.1:{port}/", contains="abcde", timeout_s=0.3))
    assert failed is not None
    assert failed.code == "health.http"
    assert "no answer within 0.3 s" in failed.message
    assert time.monotonic() - begun < 5


async def test_a_port_that_accepts_is_healthy_and_one_that_does_not_is_not(tmp_path: Path) -> None:
    async with listening(answering(b"")) as port:
        assert await problem(tmp_path, TcpCheck(port="${settings.port}"), settings__port=str(port)) is None
    failed = await problem(tmp_path, TcpCheck(port=str(port), timeout_s=2))
    assert failed is not None
    assert failed.code == "health.tcp"
    assert f"127.0.0.1:{port}" in failed.message


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", "٣"])
async def test_a_port_must_be_a_port(tmp_path: Path, port: str) -> None:
    failed = await problem(tmp_path, TcpCheck(port=port))
    assert failed is not None
    assert failed.code == "health.tcp"
    assert "is not a number from 1 to 65535" in failed.message


@pytest.mark.parametrize(
    "check",
    [
        CommandCheck(command=["true", "${settings.x}"]),
        HttpCheck(url="http://${settings.x}/"),
        TcpCheck(port="${settings.x}"),
        TcpCheck(port="1", host="${settings.x}"),
    ],
)
async def test_a_value_that_the_device_lacks_is_told(tmp_path: Path, check: HealthCheck) -> None:
    failed = await problem(tmp_path, check)
    assert failed is not None
    assert failed.code == "requires.setting"
    assert "${settings.x}" in failed.message


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ('[ "$*" = "is-active -- a.service" ] && echo active', None),
        ("echo failed; exit 3", "it is failed"),
        ("exec sleep 100", "no answer within 0.5 s"),
    ],
)
async def test_a_unit_is_healthy_while_active(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, says: str | None
) -> None:
    fake = tmp_path / "bin" / "systemctl"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{program}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    failed = await problem(tmp_path, SystemdCheck(unit="a.service", timeout_s=0.5 if "sleep" in program else 10))
    if says is None:
        assert failed is None
    else:
        assert failed is not None
        assert failed.code == "health.systemd"
        assert says in failed.message


async def test_a_device_without_systemd_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    failed = await problem(tmp_path, SystemdCheck(unit="a.service"))
    assert failed is not None
    assert failed.message == "health check of unit a.service: there is no systemctl on this device"
