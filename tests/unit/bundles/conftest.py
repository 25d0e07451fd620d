"""Releases of these tests are too small for a device to spend time on what is inside them."""

from collections.abc import Iterator

import pytest

from controller.bundles import insides


@pytest.fixture(scope="package", autouse=True)
def no_hurry() -> Iterator[None]:
    """As if unpacking a release took a minute to begin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(insides, "START_S", 60.0)
        yield
