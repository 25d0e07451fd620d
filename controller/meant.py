"""What is added to a line where something seems to be misspelled."""

from collections.abc import Collection


def did_you_mean(near: Collection[str]) -> str:
    """`; did you mean tacho or tachy?`, to be put behind a line; nothing without names."""
    return f"; did you mean {' or '.join(near)}?" if near else ""
