"""The version of this installation."""

from importlib.metadata import PackageNotFoundError, version


def _installed() -> str:
    try:
        return version("flotilla-ota")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0.0.0"


VERSION = _installed()
