"""Takes code out and looks who notices: `make taken-out`, or `python -m tests.taken_out [WORD…]` for some of it."""

import argparse
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from tests.taken_out.sandbox import Sandbox, Seen, Verdict
from tests.taken_out.table import ROOT, Promise, changed, parts

T = TypeVar("T")
_AT_ONCE = 40


def main() -> int:
    """0 where each promise's tests pass with its code and fail without it."""
    wanted = _arguments()
    promises = [
        promise
        for name, part in parts().items()
        for promise in part.promise
        if not wanted.words or any(word in f"{name}/{promise.name}" for word in wanted.words)
    ]
    if not promises:
        print("no promise has such a name", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="taken-") as folder:
        sandboxes: SimpleQueue[Sandbox] = SimpleQueue()
        for number in range(wanted.jobs):
            sandboxes.put(Sandbox(ROOT, Path(folder) / str(number)))
        with ThreadPoolExecutor(wanted.jobs) as pool:

            def each(work: Callable[[Sandbox, T], None], things: Sequence[T]) -> None:
                def do(thing: T) -> None:
                    sandbox = sandboxes.get()
                    try:
                        work(sandbox, thing)
                    finally:
                        sandboxes.put(sandbox)

                for _ in pool.map(do, things):
                    pass

            trial = Trial(verbose=wanted.verbose)
            if not wanted.without_only:
                tests = sorted({test for promise in promises for test in promise.tests})
                each(trial.with_code, [tests[first : first + _AT_ONCE] for first in range(0, len(tests), _AT_ONCE)])
            each(trial.without_code, promises)
    return trial.tell(promises)


class Trial:
    """What was found out so far; from any thread."""

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._turn = threading.Lock()
        self._unfit: dict[str, Seen] = {}
        self._missed: dict[str, list[str]] = {}
        self._by_time = 0

    def with_code(self, sandbox: Sandbox, tests: list[str]) -> None:
        """Tests that fail anyway prove nothing."""
        seen = sandbox.run(tests, {})
        with self._turn:
            self._unfit |= {test: one for test, one in seen.items() if one.verdict is not Verdict.PASSED}

    def without_code(self, sandbox: Sandbox, promise: Promise) -> None:
        """Whether all of a promise's tests notice."""
        lines = [
            f"{test}: fails with the code too: {self._unfit[test].why}" for test in promise.tests if test in self._unfit
        ]
        whys = []
        try:
            seen = sandbox.run(promise.tests, changed(promise, sandbox.tree))
        except (ValueError, OSError) as error:
            seen = {}
            lines.append(str(error))
        for test, one in seen.items():
            if one.verdict is not Verdict.FAILED:
                lines.append(f"{test}: {one.verdict}{one.why and ': '}{one.why}")
            elif self._verbose:
                whys.append(f"    {test.partition('::')[2]}: {one.why}")
        by_time = not lines and all("Timeout" in one.why or "hangs" in one.why for one in seen.values())
        with self._turn:
            self._by_time += by_time
            self._missed |= {promise.name: lines} if lines else {}
            word = "MISSED" if lines else "hangs" if by_time else "caught"
            print("\n".join([f"{word:6}  {promise.name}", *whys]), flush=True)

    def tell(self, promises: Sequence[Promise]) -> int:
        """The result; an exit status."""
        for promise in promises:
            if promise.name in self._missed:
                print(f"\n{promise.name}: {promise.says}")
                print("\n".join(f"    {line}" for line in self._missed[promise.name]))
        caught = (
            f"{len(promises) - len(self._missed)} of {len(promises)} promises have tests that fail without their code"
        )
        print(f"\n{caught}; {self._by_time} of them because the tests do not end any more")
        return 1 if self._missed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.taken_out", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD", help="only promises with this in FILE/NAME")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="so many at once (default 2)")
    parser.add_argument("-v", "--verbose", action="store_true", help="show why each test failed")
    parser.add_argument("--without-only", action="store_true", help="do not look whether the tests pass with the code")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
