"""A systemctl and a journalctl that keep their state in a file, for machines where systemd is not init.

A unit that neither has a file nor was said to exist cannot be started. `set` changes what `show` answers.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

_PROGRAM = """\
import json, pathlib, sys
here = pathlib.Path({here!r})
state = json.loads((here / "state.json").read_text())
name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
with (here / "calls").open("a") as calls:
    calls.write(json.dumps([name, *words]) + chr(10))
if name == "journalctl":
    print("line of", *(w.partition("=")[2] for w in words if w.startswith("--unit=")))
    sys.exit(0)
words = [w for w in words if not w.startswith("--") or w.startswith("--property")]
verb, units = words[0], [w for w in words[1:] if not w.startswith("--")]
for unit in units:
    file = here / "units" / unit
    known = file.exists() or unit in state["existing"]
    shown = state["shown"].setdefault(unit, {{"LoadState": "loaded", "ActiveState": "inactive",
        "SubState": "dead", "Result": "success", "NRestarts": "0", "ExecMainCode": "0", "ExecMainStatus": "0",
        "Type": "exec"}})
    if verb == "show":
        shown["LoadState"] = "loaded" if known else "not-found"
        for item in shown.items():
            print("=".join(item))
    elif verb == "restart":
        if not known:
            print("Job for", unit, "failed.", file=sys.stderr)
            sys.exit(1)
        shown.update(ActiveState="active", SubState="running", NRestarts="0")
        state["started"][unit] = file.read_text() if file.exists() else ""
    elif verb == "stop":
        shown.update(ActiveState="inactive", SubState="dead")
(here / "state.json").write_text(json.dumps(state))
"""


class FakeSystemd:
    """Put its `bin` folder on PATH and give its `units` folder to the manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.bin = folder / "bin"
        self.units = folder / "units"
        self.bin.mkdir(parents=True)
        self.units.mkdir()
        self._save({"existing": [], "shown": {}, "started": {}})
        for name in ("systemctl", "journalctl"):
            program = self.bin / name
            program.write_text(f"#!{sys.executable} -IS\n{_PROGRAM.format(here=str(folder))}")
            program.chmod(0o755)
        self.path = f"{self.bin}{os.pathsep}/usr/bin{os.pathsep}/bin"

    def exists(self, unit: str) -> None:
        """There is a unit that nobody here wrote."""
        state = self._load()
        state["existing"].append(unit)
        self._save(state)

    def set(self, unit: str, **properties: str) -> None:
        """What `show` answers from now on."""
        state = self._load()
        state["shown"][unit].update(properties)
        self._save(state)

    def started_with(self, unit: str) -> str:
        """The unit's text when it was last started."""
        return str(self._load()["started"][unit])

    def calls(self) -> list[list[str]]:
        """Verbs and units of every call that changes something, oldest first; forgets them."""
        file = self._folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        calls = [[word for word in json.loads(line)[1:] if not word.startswith("--")] for line in lines]
        return [call for call in calls if call and call[0] != "show"]

    def _load(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self._folder / "state.json").read_text())
        return loaded

    def _save(self, state: dict[str, Any]) -> None:
        (self._folder / "state.json").write_text(json.dumps(state))
