"""`flotilla` and `flotilla-agent` as processes, as a person starts them, and what they say when something is wrong.

said = run("flotilla", "push", package, "--url", world.url)
assert said.refusal() == "tacho-1.0.0-any.flotilla: the file is cut short in the header of manifest.json"
"""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controller.demo.processes import program

BOUND_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Said:
    """How a command ended and what it printed."""

    command: str
    status: int
    out: str
    err: str

    def refusal(self, status: int = 1) -> str:
        """The one line of a command that refused, without the command's name; nothing else was printed."""
        assert self.status == status, self
        assert self.out == "", self
        assert "Traceback" not in self.err, self
        assert self.err.endswith("\n"), self
        assert self.err.count("\n") == 1, self
        line = self.err.rstrip("\n")
        assert line.startswith(f"{self.command}: "), self
        assert line.isprintable(), self
        return line.removeprefix(f"{self.command}: ")

    def well(self) -> str:
        """What a command printed that did what it was asked for."""
        assert self.status == 0, self
        return self.out


def run(
    command: str,
    *arguments: object,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Said:
    """Run a command to its end.

    Args:
        command: `flotilla` or `flotilla-agent`.
        folder: to run it in.
        env: variables besides those of this process; `FLOTILLA_…` are not passed on.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FLOTILLA_")}
    done = subprocess.run(
        [program(command), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
        cwd=folder,
        env={**clean, **(env or {})},
        stdin=subprocess.DEVNULL,
    )
    return Said(command=command, status=done.returncode, out=done.stdout, err=done.stderr)


def everything_in(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Path to mode and content of everything below a folder: to compare a folder before and after, byte for byte."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = b""
        if path.is_symlink():
            content = os.fsencode(path.readlink())
        elif path.is_file():
            content = path.read_bytes()
        found[os.fspath(path.relative_to(folder))] = (path.lstat().st_mode, content)
    return found
