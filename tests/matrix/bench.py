"""What the matrix works with: signed releases, folders of agents before an update, and one run after the other."""

import os
import select
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from device_agent.updates import UpdateRequest
from schemas.manifest import CommandCheck, DirectoryEntry, Health, LinkEntry, Service, Template
from tests.matrix.agent import SHELF, Plan, Result
from tests.matrix.strace import Tracer
from tests.support.repository import add_release, make_repository

RUN_S: Final = 60.0
VERSIONS: Final = ("0.9.0", "1.0.0", "1.1.0", "1.2.0")
SICK: Final = "1.2.0"
Files = dict[str, tuple[bytes, int]]


def files_of(version: str) -> Files:
    """Path to content and mode: some the same in every version, some not, one content in two modes."""
    answers = f'read pid version <data/answer && [ "$version" = {version} ] && kill -0 "$pid"'
    serves = f'echo "$$ {version}" >data/answer.new\nmv data/answer.new data/answer\nexec sleep 600'
    return {
        "bin/run": (f"#!/bin/sh\n{serves}\n".encode(), 0o755),
        "bin/check": (f"#!/bin/sh\n{'exit 1' if version == SICK else answers}\n".encode(), 0o755),
        "lib/common.txt": (b"the same in every version\n", 0o644),
        "lib/again.sh": (b"the same in every version\n", 0o755),
        f"lib/only-{version}.txt": (f"only in {version}\n".encode() * 50, 0o644),
        "lib/empty.py": (b"", 0o644),
        "etc/app.conf.in": (b"device=${device.id}\nversion=${package.version}\n", 0o644),
        "data/seed.txt": (b"first content\n", 0o644),
    }


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A run: how its process ended and what it said."""

    status: int
    result: Result | None
    log: str

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == 9


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What strace is to do with one of the two threads: `main` or `worker`."""

    thread: str
    options: list[str]
    log: Path = field(default=Path("/dev/null"))


class Bench:
    """See the module. One run at a time, always on the same folder, so that paths are the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.area = folder / "area"
        self.root = self.area / "root"
        self.place = self.area / "opt" / "tacho"
        self.controller = folder / "controller.jsonl"
        self._bases = folder / "bases"
        self._bases.mkdir(parents=True)
        self._go_out, self._go_in = os.pipe()
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.matrix.agent", str(self._go_out)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self._go_out],
            bufsize=0,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        self._heard = b""
        self._publish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        try:
            self._server.wait(5)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server.stdout.close()
        os.close(self._go_in)
        os.close(self._go_out)

    def request(self, version: str, number: int) -> UpdateRequest:
        """The wish that an announcement of rollout `number` stands for."""
        return UpdateRequest(
            package="tacho",
            version=version,
            rollout=f"018f0000-0000-7000-8000-{number:012x}",
            repository=[f"{SHELF}{self.folder}/tacho-{version}.flotilla"],
        )

    def clear(self) -> None:
        """A device on which no agent ever ran."""
        shutil.rmtree(self.area, ignore_errors=True)
        self.controller.unlink(missing_ok=True)
        self.area.mkdir()

    def keep(self, name: str) -> None:
        """Keep the device as it is now, to begin from again."""
        _copy(self.area, self._bases / name)
        if self.controller.exists():
            shutil.copy2(self.controller, self._bases / f"{name}.jsonl")

    def begin_from(self, name: str) -> None:
        """The device as it was kept."""
        self.clear()
        self.area.rmdir()
        _copy(self._bases / name, self.area)
        told = self._bases / f"{name}.jsonl"
        if told.exists():
            shutil.copy2(told, self.controller)

    def has(self, name: str) -> bool:
        """Whether a device was kept by this name."""
        return (self._bases / name).is_dir()

    def run(self, request: UpdateRequest | None, *traces: Trace) -> Ran:
        """Have the agent run with a wish until everything has ended, or it is killed."""
        result, log = self.folder / "result.json", self.folder / "agent.log"
        result.unlink(missing_ok=True)
        log.unlink(missing_ok=True)
        plan = Plan(
            root=str(self.root),
            trusted_root=str(self.folder / "root.json"),
            place=str(self.place),
            request=request,
            controller=str(self.controller),
            result=str(result),
            log=str(log),
        )
        assert self._server.stdin is not None
        self._server.stdin.write(msgspec.json.encode(plan) + b"\n")
        _, pid, worker = self._hear("ready").split()
        threads = {"main": int(pid), "worker": int(worker)}
        tracers = [Tracer(threads[trace.thread], trace.log, *trace.options) for trace in traces]
        os.write(self._go_in, b"g")
        try:
            status = int(self._hear("ended").split()[1])
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.kill(int(pid), 9)
            status = int(self._hear("ended").split()[1])
        for tracer in tracers:
            tracer.end()
        return Ran(
            status=status,
            result=msgspec.json.decode(result.read_bytes(), type=Result) if result.exists() else None,
            log=log.read_text(errors="replace") if log.exists() else "",
        )

    def _hear(self, word: str) -> str:
        assert self._server.stdout is not None
        while b"\n" not in self._heard:
            ready, _, _ = select.select([self._server.stdout], [], [], RUN_S)
            if not ready:
                raise TimeoutError(f"the agent's process did not say '{word}' within {RUN_S} s")
            more = os.read(self._server.stdout.fileno(), 4096)
            if not more:
                raise RuntimeError("the process that agents are forked from has ended")
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        text = line.decode()
        assert text.startswith(word), text
        return text

    def _publish(self) -> None:
        repository = make_repository(self.folder / "controller")
        for version in VERSIONS:
            held = files_of(version)
            add_release(
                repository,
                "tacho",
                version,
                {path: content for path, (content, _) in held.items()},
                modes={path: mode for path, (_, mode) in held.items()},
                **parts_of(version),
            )
            repository.export("tacho", version, None, self.folder / f"tacho-{version}.flotilla")
        roots = sorted((self.folder / "controller/repository/metadata").glob("*.root.json"))
        shutil.copy2(roots[0], self.folder / "root.json")


def parts_of(version: str) -> dict[str, Any]:
    """What else a release's manifest has."""
    patience = 0.0 if version == SICK else 20.0
    return {
        "links": [LinkEntry(path="lib/latest", target=f"only-{version}.txt")],
        "directories": [DirectoryEntry(path="spool", mode=0o750)],
        "state": ["data"],
        "templates": [Template(source="etc/app.conf.in", target="etc/app.conf")],
        "services": [Service(name="web", command=["bin/run"], stop_timeout_s=5)],
        "health": Health(
            checks=[CommandCheck(command=["bin/check"])],
            start_period_s=patience,
            interval_s=0.1,
            retries=20,
            probation_s=0,
        ),
        "install_path": "/opt/tacho",
    }


def _copy(source: Path, destination: Path) -> None:
    # cp keeps hard links what they are, shutil does not
    subprocess.run(["cp", "-a", str(source), str(destination)], check=True, timeout=30)
