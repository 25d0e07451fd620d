"""The trial of a new release of the agent itself: a small file that agent and launcher share.

The agent that switches writes it before the link changes; the launcher counts the starts in it and says in it that
it gave up; the agent that the update ends with removes it. Its format never changes: the launcher of an old
installation has to understand what any later agent writes. Standard library only, as the launcher is.
"""

import json
import os
from pathlib import Path

FILE = "launcher.json"
"""In the agent's root folder."""
MAX_BYTES = 256 * 1024
MAX_TAIL = 8 * 1024
LONGEST_S = 3600.0


class Trial:
    """What is being tried.

    Attributes:
        target: name of the release's folder that the link is to lead to; empty: the installation with the launcher.
        source: the same for what runs now, which is what is gone back to.
        version: of the release in `target`; empty for the installation.
        within_s: how long it may take from a start until the agent says that it is well.
        must_connect: whether it has to reach the broker, because the agent before it could.
        starts: how often the launcher has started it.
        failed: why the launcher gave it up; empty as long as it has not.
        log_tail: the last that it printed.
    """

    def __init__(
        self,
        *,
        target: str,
        source: str,
        version: str,
        within_s: float,
        must_connect: bool,
        starts: int = 0,
        failed: str = "",
        log_tail: str = "",
    ) -> None:
        self.target = target
        self.source = source
        self.version = version
        self.within_s = within_s
        self.must_connect = must_connect
        self.starts = starts
        self.failed = failed
        self.log_tail = log_tail


def read_trial(root: Path) -> Trial | None:
    """The trial in the folder `root`; None where there is none that can be understood."""
    try:
        with (root / FILE).open("rb") as stream:
            kept = json.loads(stream.read(MAX_BYTES))
        trial = Trial(
            target=str(kept["target"]),
            source=str(kept["source"]),
            version=str(kept["version"]),
            within_s=min(max(float(kept["within_s"]), 1.0), LONGEST_S),
            must_connect=bool(kept["must_connect"]),
            starts=int(kept["starts"]),
            failed=str(kept["failed"]),
            log_tail=str(kept["log_tail"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return trial if is_name(trial.target) and is_name(trial.source) else None


def write_trial(root: Path, trial: Trial) -> None:
    """Keep it: whole or not at all, and durably. Raises `OSError`."""
    kept = {**vars(trial), "log_tail": trial.log_tail[-MAX_TAIL:], "format": 1}
    new = root / f".{FILE}.new"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, json.dumps(kept).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    new.replace(root / FILE)
    flush(root)


def forget_trial(root: Path) -> None:
    """It is over. Raises `OSError`."""
    (root / FILE).unlink(missing_ok=True)
    flush(root)


def is_name(text: str) -> bool:
    """Whether this is one folder's name, or empty."""
    return text not in (".", "..") and "/" not in text and "\0" not in text


def flush(folder: Path) -> None:
    """Make what was renamed or removed in a folder survive a power cut. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
