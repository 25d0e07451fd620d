"""Whether Apprise knows the addresses of `notify.toml`: asked in a process of its own; loaded it takes 45 MiB."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from controller.notify.config import NotifyConfig
from controller.notify.words import WIKI
from schemas.errors import OperatorError

BOUND_S: Final = 60.0
"""A slow machine takes some seconds; where it takes longer than this the first delivery says it."""

_ASKED: Final = """\
import json, sys
import apprise
json.dump([bool(apprise.Apprise().add(url)) for url in json.load(sys.stdin)], sys.stdout)
"""


def refuse_unknown(path: Path, config: NotifyConfig) -> None:
    """See that each of Apprise's targets has an address that it could send to; blocks.

    Raises:
        OperatorError: `config.bad`, in one line that names the target and quotes no address.
    """
    asked = [target for target in config.targets if target.key is None]
    if not asked:
        return
    for target, known in zip(asked, _known([target.url for target in asked]), strict=False):
        if not known:
            raise OperatorError(
                "config.bad",
                f"{path}: target {target.name}: its url is none that Apprise knows, by its scheme or by what follows;"
                f" {WIKI} lists them",
            )


def _known(urls: list[str]) -> list[bool]:
    """Whether Apprise knows each; nothing where it cannot be asked. A pipe is not seen by others, as arguments are."""
    try:
        answer = subprocess.run(
            [sys.executable, "-P", "-c", _ASKED],
            input=msgspec.json.encode(urls),
            capture_output=True,
            timeout=BOUND_S,
            check=True,
        )
        return msgspec.json.decode(answer.stdout, type=list[bool])
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError):
        return []
