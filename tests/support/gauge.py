"""A sample application for stories: a small HTTP service in several files, healthy or not, and hooks that wait.

gate = Gate(tmp_path / "gate")
source = gauge(tmp_path / "1.1.0", "1.1.0", hooks={"pre_switch": gate})
... world.wait(lambda: gate.reached("pi-1"), "the hook") ... gate.open()
"""

import http.client
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from schemas.messages import Phase
from tests.support.packages import make_source

NAME: Final = "gauge"
PORT: Final = "${settings.port}"
UPDATED: Final = [Phase.ACCEPTED, Phase.FETCHING, Phase.STAGED, Phase.SWITCHED, Phase.PROBATION, Phase.SUCCEEDED]
"""The phases of an update that goes well."""
UNDONE: Final = [*UPDATED[:4], Phase.ROLLING_BACK, Phase.ROLLED_BACK]
"""The phases of an update whose release never becomes healthy."""

_PROGRAM: Final = '''\
"""Says its version at any address; at /health only as long as it is well."""

import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
VERSION = (HERE / "version.txt").read_text().strip()
WAITS_FOR = (HERE / "waits_for.txt").read_text().strip()
SICK = (HERE / "sick.txt").exists()


class Gauge(BaseHTTPRequestHandler):
    def do_GET(self):
        well = not SICK and (not WAITS_FOR or os.path.exists(WAITS_FOR))
        self.send_response(200 if well or self.path != "/health" else 500)
        self.end_headers()
        self.wfile.write(VERSION.encode())

    def log_message(self, *args):
        pass


print(f"gauge {VERSION} starts", flush=True)
HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Gauge).serve_forever()
'''


class Gate:
    """A hook that waits, on each device by itself, until the test lets it go on.

    Args:
        folder: where hook and test meet; outside of any release.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def script(self) -> str:
        """The hook's content."""
        here = f"'{self._folder}'"
        return f"#!/bin/sh\n: > {here}/$FLOTILLA_DEVICE\nwhile [ ! -e {here}/open ]; do sleep 0.02; done\necho passed\n"

    def reached(self, device: str) -> bool:
        """Whether the device's hook has started since `forget`."""
        return (self._folder / device).exists()

    def forget(self, device: str) -> None:
        """Have `reached` say no until the hook starts again."""
        (self._folder / device).unlink()

    def open(self) -> None:
        """Let every hook pass, now and later."""
        (self._folder / "open").touch()


def gauge(
    folder: Path,
    version: str,
    *,
    name: str = NAME,
    sick: bool = False,
    waits_for: Path | None = None,
    hooks: Mapping[str, Gate] | None = None,
    files: Mapping[str, bytes | str] | None = None,
    health: Mapping[str, Any] | None = None,
    **toml: Any,
) -> Path:
    """Write the source of one version and return its folder.

    Args:
        sick: its health check fails always.
        waits_for: it fails as long as there is no such file.
        hooks: name of a hook to the gate that it is.
        files: besides its own.
        health: instead of quick ones: healthy within 15 s, then 0.3 s of probation.
        toml: further tables of `flotilla.toml`.
    """
    content: dict[str, bytes | str] = {
        "bin/gauge.py": _PROGRAM,
        "version.txt": f"{version}\n",
        "waits_for.txt": f"{waits_for or ''}\n",
        "share/dials/rpm.json": '{"full_scale": 8000}\n',
        "share/dials/speed.json": f'{{"full_scale": 260, "since": "{version}"}}\n',
        "share/needle.bin": version.encode() * 4000,
        **({"sick.txt": "it is\n"} if sick else {}),
        **(files or {}),
    }
    for hook, gate in (hooks or {}).items():
        content[f"hooks/{hook}"] = gate.script
    tables: dict[str, Any] = {
        "settings": {"port": {"required": True}},
        "hooks": {hook: {"command": [f"hooks/{hook}"], "timeout_s": 60} for hook in hooks or {}},
        "service": [{"name": "web", "command": ["python3", "-B", "bin/gauge.py"], "environment": {"PORT": PORT}}],
        "health": {
            "start_period_s": 15,
            "interval_s": 0.2,
            "retries": 3,
            "probation_s": 0.3,
            **(health or {}),
            "check": [{"type": "http", "url": f"http://127.0.0.1:{PORT}/health", "contains": version}],
        },
    }
    made = make_source(folder, name, version, content, **{**tables, **toml})
    link = made / "share" / "dial.json"
    if not link.is_symlink():
        link.symlink_to("dials/rpm.json")
    return made


def settings(port: int, name: str = NAME) -> dict[str, dict[str, int]]:
    """What an agent's `settings` say about the package."""
    return {name: {"port": port}}


def running_version(port: int) -> str:
    """What the service at this port says that it is; empty where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/version")
        return connection.getresponse().read(100).decode()
    except OSError:
        return ""
    finally:
        connection.close()
