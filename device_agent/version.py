"""The agent's version, apart from package metadata: reading that at run time costs start-up time and memory on a Pi."""

from typing import Final

VERSION: Final = "0.1.0"
"""The same as the distribution's (a test compares them)."""
