"""What the programs do not load though it is installed."""

import importlib
import subprocess
import sys

import pytest

import transport
from schemas.without_modules import without_modules


def test_a_module_cannot_be_imported_inside_and_can_be_afterwards() -> None:
    sys.modules.pop("this", None)
    with without_modules("this"), pytest.raises(ImportError):
        importlib.import_module("this")
    assert "this" not in sys.modules
    assert importlib.util.find_spec("this") is not None


def test_a_module_that_is_loaded_stays() -> None:
    with without_modules("importlib"):
        assert importlib.import_module("importlib") is importlib
    assert sys.modules["importlib"] is importlib


def test_an_error_inside_leaves_nothing_barred() -> None:
    with pytest.raises(RuntimeError), without_modules("this"):
        raise RuntimeError
    assert sys.modules.get("this", ...) is not None


UNUSED = ("boto3", "botocore", "pygments")


@pytest.mark.parametrize("module", ["device_agent.trust", "controller.app", "controller.cli.packages"])
def test_no_program_loads_what_it_never_uses(module: str) -> None:
    for name in UNUSED:
        assert importlib.util.find_spec(name) is not None, "without it here this test would show nothing"
    script = f"import sys, {module}; print([n for n in {UNUSED} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_commands_that_talk_to_no_broker_load_no_client_for_one() -> None:
    script = "import sys, device_agent.cli.main, device_agent.cli.status; print('paho' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False"


def test_what_is_loaded_later_is_there_when_it_is_asked_for() -> None:
    assert all(getattr(transport, name) is not None for name in transport.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(transport, "nothing")  # noqa: B009  # mypy sees through the other spelling
