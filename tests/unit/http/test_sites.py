"""A file for another site has all that was asked for, or is refused; never a part of it."""

from pathlib import Path

import pytest

from controller.http import packages
from tests.support.repository import add_release, make_repository


def test_more_releases_than_fit_are_not_left_out_silently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "MAX_RELEASES", 2)
    repository = make_repository(tmp_path)
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        add_release(repository, "tacho", version, {"v": version})
    assert len(packages._all_of(repository, "tacho", None)) == 3
    assert [one.version for one in packages._all_of(repository, "tacho", "<1.2")] == ["1.1.0", "1.0.0"]
    assert packages._all_of(repository, "radio", None) == []
