"""The sample application's releases, as folders to build from: a base with one layer of changes each."""

import shutil
from pathlib import Path

from schemas.errors import OperatorError

_BESIDE = Path(__file__).with_name("tacho")
_IN_CHECKOUT = Path(__file__).parents[2] / "examples" / "tacho"


def sample_folder(given: Path | None) -> Path:
    """Where the sample lies: `given`, else beside this module (as installed), else in the checkout.

    Raises `OperatorError` (`input.bad`) where there is no sample.
    """
    for folder in [given] if given else [_BESIDE, _IN_CHECKOUT]:
        if (folder / "app" / "flotilla.toml").is_file():
            return folder
    raise OperatorError(
        "input.bad", f"{given or _IN_CHECKOUT} is no sample: it has no app/flotilla.toml; name one with --sample"
    )


def layered_source(sample: Path, version: str, destination: Path) -> Path:
    """Lay out the source of one release below `destination` and return its folder.

    `app/` is the base; where `releases/{version}/` exists, its files are laid over it.
    """
    source = destination / version
    shutil.copytree(sample / "app", source)
    layer = sample / "releases" / version
    if layer.is_dir():
        shutil.copytree(layer, source, dirs_exist_ok=True)
    return source
