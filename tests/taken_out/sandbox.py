"""A copy of the tree in which code is taken out and tests are run; the tree itself is never touched."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple
from xml.etree import ElementTree  # of a file that pytest has just written

TEST_S: Final = 25
"""One test may take so long: one that waits for what does not come any more has failed then."""
PAGE_MS: Final = 15_000
WHOLE_TEST_S: Final = 120
_START_S: Final = 60
_PLUGINS: Final = ("pytest_asyncio.plugin", "pytest_timeout", "_hypothesis_pytestplugin")
"""Loading whatever is installed takes longer than most of these tests."""


class Verdict(StrEnum):
    """What a test made of it."""

    PASSED = "passed"
    FAILED = "failed"
    BROKEN = "broken"
    """It did not get as far as failing: it is not there, or what it is set up with does not work."""


class Seen(NamedTuple):
    """How a test ended, and the first line of why."""

    verdict: Verdict
    why: str


class Sandbox:
    """See the module. For one thread.

    Args:
        folder: where the copy is made; must not be there yet.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.tree = folder / "tree"
        self._report = folder / "report.xml"
        self._tests = folder / "t"
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=root,
            check=True,
            capture_output=True,
            timeout=60,
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (root / name).exists():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, self.tree / name, follow_symlinks=False)
        # by hash: a file that changes twice within a second would be taken for what it was before
        self._python("-m", "compileall", "-q", "--invalidation-mode", "checked-hash", ".", limit_s=300)

    def run(self, tests: Sequence[str], texts: Mapping[str, str]) -> dict[str, Seen]:
        """How each of the tests ends where these files have these texts; as things are they may take longer."""
        test_s = TEST_S if texts else WHOLE_TEST_S
        before = {name: (self.tree / name).read_text() for name in texts}
        for name, text in texts.items():
            (self.tree / name).write_text(text)
        try:
            return self._run(tests, test_s)
        finally:
            for name, text in before.items():
                (self.tree / name).write_text(text)

    def _run(self, tests: Sequence[str], test_s: int) -> dict[str, Seen]:
        self._report.unlink(missing_ok=True)
        shutil.rmtree(self._tests, ignore_errors=True)
        options = ["-q", "-p", "no:cacheprovider", f"--timeout={test_s}", f"--basetemp={self._tests}"]
        options += [word for plugin in _PLUGINS for word in ("-p", plugin)]
        in_time = self._python(
            "-m", "pytest", *options, f"--junitxml={self._report}", *tests, limit_s=_START_S + test_s * len(tests)
        )
        if not self._report.exists():
            why = "pytest ended without a report" if in_time else "hangs, and so does pytest"
            return dict.fromkeys(tests, Seen(Verdict.BROKEN if in_time else Verdict.FAILED, why))
        cases = list(ElementTree.parse(self._report).iter("testcase"))  # noqa: S314  # written by pytest just now
        return {test: _seen(test, cases) for test in tests}

    def _python(self, *arguments: str, limit_s: float) -> bool:
        """Run Python in the copy; whether it ended in time."""
        environment = {**os.environ, "PYTHONPATH": str(self.tree), "PYTHONDONTWRITEBYTECODE": "1"}
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        environment["FLOTILLA_TEST_PAGE_WAIT_MS"] = str(PAGE_MS)  # a page's test says then what it waited for
        if "compileall" in arguments:
            del environment["PYTHONDONTWRITEBYTECODE"]
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.tree,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return False
        finally:
            with contextlib.suppress(ProcessLookupError):  # also what a broken test has left running
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return True


def _seen(test: str, cases: Sequence[ElementTree.Element]) -> Seen:
    path, *names = test.split("::")
    where = ".".join([path.removesuffix(".py").replace("/", "."), *names[:-1]])
    found = [case for case in cases if case.get("classname") == where and _is(names[-1], case.get("name", ""))]
    for case in found:
        failure = case.find("failure")
        if failure is not None:
            return Seen(Verdict.FAILED, _first_line(failure))
    errors = [error for case in (found or cases) if (error := case.find("error")) is not None]
    if errors or not found:
        return Seen(Verdict.BROKEN, _first_line(errors[0]) if errors else "there is no such test")
    if any(case.find("skipped") is not None for case in found):
        return Seen(Verdict.BROKEN, "skipped")
    return Seen(Verdict.PASSED, "")


def _is(wanted: str, name: str) -> bool:
    return name == wanted or name.startswith(f"{wanted}[")


def _first_line(element: ElementTree.Element) -> str:
    return " ".join((element.get("message") or "").split())[:150]
