"""Loading a library without what it would load besides."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

CLOUD_CLIENTS: Final = ("azure", "boto3", "botocore", "google", "hvac", "PyKCS11", "sigstore")
"""What securesystemslib loads, where it happens to be installed, to sign with keys that a cloud keeps. Nothing here
does, and boto3 alone takes as long to load as the rest of what an agent verifies with."""


@contextmanager
def without_modules(*names: str) -> Iterator[None]:
    """Inside, these modules cannot be imported, as if they were not installed; those that are loaded already stay.

    Args:
        names: of top-level modules. A library that does without one of them has to catch `ImportError` itself.
    """
    barred = [name for name in names if name not in sys.modules]
    # None in this place is how Python notes that there is no such module
    sys.modules.update(dict.fromkeys(barred))  # type: ignore[arg-type]  # see above
    try:
        yield
    finally:
        for name in barred:
            sys.modules.pop(name, None)
