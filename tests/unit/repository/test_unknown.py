"""Whoever misspells a package is told which one was probably meant."""

from collections.abc import Callable

import pytest
from sqlalchemy import insert

from controller.database import writing
from controller.repository.index import Index
from controller.repository.package_repository import PackageRepository
from controller.repository.tables import STORED, releases
from controller.repository.unknown import MAX_NAMES, MAX_NEAR
from schemas.errors import PublisherError
from tests.support.repository import add_release

Ask = Callable[[PackageRepository, str], object]

ASKED: dict[str, Ask] = {
    "show": lambda repository, name: repository.get(name, "1.0.0"),
    "release": lambda repository, name: repository.set_channel(name, "1.0.0", "stable"),
    "yank": lambda repository, name: repository.yank(name, "1.0.0", "bad"),
    "delete": lambda repository, name: repository.delete(name, "1.0.0"),
}


def refusal(repository: PackageRepository, name: str, ask: Ask = ASKED["show"]) -> str:
    with pytest.raises(PublisherError) as refused:
        ask(repository, name)
    assert refused.value.code == "release.unknown"
    return refused.value.message


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_misspelled_package_is_told_the_one_that_was_meant(repository: PackageRepository, ask: Ask) -> None:
    for name in ("hello", "tacho"):
        add_release(repository, name, "1.1.0", {"a": "a"})
    assert refusal(repository, "helo", ask) == "there is no helo 1.0.0 in the repository; did you mean hello?"
    assert "did you mean" not in refusal(repository, "hello", ask)
    assert "did you mean" not in refusal(repository, "needle", ask)


def test_no_release_of_a_package_says_so_too(repository: PackageRepository) -> None:
    add_release(repository, "hello", "1.0.0", {"a": "a"})
    said = repository.unknown("Helo").message
    assert said == "there is no package Helo in the repository; did you mean hello?"


@pytest.mark.parametrize("name", ["ehllo", "hellp", "hell", "hhello"])
def test_a_letter_too_many_too_few_or_in_the_wrong_place_is_near_enough(
    repository: PackageRepository, name: str
) -> None:
    add_release(repository, "hello", "1.0.0", {"a": "a"})
    assert refusal(repository, name).endswith("; did you mean hello?")


@pytest.mark.parametrize("name", ["", "%", "_____", "h" * 10_000])
def test_what_is_like_no_name_gets_none(repository: PackageRepository, name: str) -> None:
    add_release(repository, "hello", "1.0.0", {"a": "a"})
    assert "did you mean" not in refusal(repository, name)


def test_of_very_many_that_are_alike_only_a_few_are_named(
    repository: PackageRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_release(repository, "sensor-0000", "1.0.0", {"a": "a"})
    compared: list[int] = []

    def near(_name: str, names: list[str], *, n: int, cutoff: float) -> list[str]:
        assert 0 < cutoff < 1
        compared.append(len(names))
        return names[:n]

    index = repository._index
    assert isinstance(index, Index)
    with writing(index._engine) as connection:
        row = dict(connection.execute(releases.select().where(releases.c.state == STORED)).mappings().one())
        del row["id"]
        rows = [row | _named(row, f"sensor-{number:04d}") for number in range(1, MAX_NAMES + 500)]
        connection.execute(insert(releases), rows)
    monkeypatch.setattr("difflib.get_close_matches", near)
    assert refusal(repository, "sensor-xxxx").count("sensor-0") == MAX_NEAR
    assert compared == [MAX_NAMES]


def _named(row: dict[str, object], name: str) -> dict[str, object]:
    """The columns of a release's row in which its package is, under another name."""
    return {column: value.replace(str(row["package"]), name) for column, value in row.items() if isinstance(value, str)}
