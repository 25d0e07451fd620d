"""A signal while a process is started: it is known by then, and so it is ended."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker_config.process import MosquittoProcess
from broker_config.uninterrupted import uninterrupted
from controller.demo.processes import Processes


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that were started since, right after each of which Ctrl-C was pressed."""
    all_of_them: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            all_of_them.append(self)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    yield all_of_them
    for one in all_of_them:
        one.kill()
        one.wait(10)


def test_what_is_begun_is_done_before_a_signal_is_heeded() -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        done = True
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_comes_before_it_leaves_all_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    put, changed = signal.signal, list[int]()

    def end(_: int, __: object) -> None:
        raise SystemExit

    def put_slowly(number: int, handler: Any) -> Any:
        before = put(number, handler)
        changed.append(number)
        if len(changed) == 1:
            signal.raise_signal(signal.SIGTERM)
        return before

    before = put(signal.SIGTERM, end)
    try:
        monkeypatch.setattr(signal, "signal", put_slowly)
        with pytest.raises(SystemExit), uninterrupted():
            pytest.fail("it came before")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is end
    finally:
        put(signal.SIGTERM, before)


def test_what_fails_meanwhile_is_not_forgotten() -> None:
    with pytest.raises(KeyboardInterrupt) as raised, uninterrupted():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("it failed")
    assert isinstance(raised.value.__context__, ValueError)


def test_threads_may_use_it_which_get_no_signals() -> None:
    done = threading.Event()

    def work() -> None:
        with uninterrupted():
            done.set()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert done.is_set()


def test_an_interrupted_start_of_a_process_leaves_none(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    with pytest.raises(KeyboardInterrupt), Processes(tmp_path) as processes:
        processes.start("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"])
    assert [one.returncode for one in started] == [-signal.SIGTERM]


def test_an_interrupted_start_of_a_broker_leaves_none(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    broker = MosquittoProcess(tmp_path / "broker", name="development.conf")
    with pytest.raises(KeyboardInterrupt), broker:
        pass
    assert [one.returncode for one in started] == [-signal.SIGKILL]
    assert broker.pid is None
