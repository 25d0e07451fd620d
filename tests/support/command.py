"""Runs the command `flotilla` in this process, as fast as a call, with its status and both outputs."""

import io
import json
import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest import mock

from controller.cli.main import main


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a command ended and what it printed."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout.decode()

    def json(self) -> Any:
        """What a command that went well printed as JSON."""
        assert self.status == 0, self
        return json.loads(self.stdout)

    def complaint(self, status: int = 1) -> str:
        """The one line of a command that went wrong."""
        assert self.status == status, self
        assert self.stdout == b"", self
        assert self.stderr.startswith("flotilla: "), self
        assert self.stderr.endswith("\n"), self
        assert self.stderr.count("\n") == 1, self
        assert "Traceback" not in self.stderr, self
        return self.stderr.removeprefix("flotilla: ").rstrip("\n")


def flotilla(*arguments: object, env: Mapping[str, str] | None = None) -> Finished:
    """Run `flotilla` with these arguments, and no `FLOTILLA_…` variables but those given."""
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FLOTILLA_")}
    with (
        mock.patch.object(sys, "argv", ["flotilla", *map(str, arguments)]),
        mock.patch.dict(os.environ, {**clean, **(env or {})}, clear=True),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code
    assert isinstance(status, int)
    outputs = [stream.buffer.getvalue() for stream in (stdout, stderr)]
    return Finished(status=status, stdout=outputs[0], stderr=outputs[1].decode())
