"""Choosing versions of packages that require each other, and explaining why none fit."""

import re
from collections.abc import Iterable, Mapping
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import PublisherError
from schemas.ranges import Range
from schemas.resolution import Offer, resolve
from schemas.versions import Version

Packages = dict[str, list[Offer]]

GAUGES: list[Offer] = [("1.4.0", {}), ("1.5.0", {}), ("2.0.0", {})]


def chosen(packages: Packages, roots: dict[str, str], **options: object) -> dict[str, str]:
    return {name: str(version) for name, version in resolve(packages, roots, **options).items()}  # type: ignore[arg-type]  # passed through


def refusal(packages: Packages, roots: dict[str, str], *, max_rounds: int = 1000) -> PublisherError:
    with pytest.raises(PublisherError) as caught:
        resolve(packages, roots, max_rounds=max_rounds)
    assert str(caught.value).isprintable()
    return caught.value


def test_the_newest_versions_that_fit_together_are_chosen() -> None:
    packages: Packages = {
        "tacho": [("1.0.0", {"gauge": "^1"}), ("1.1.0", {"gauge": "^1.2"})],
        "gauge": GAUGES,
        "unrelated": [("9.0.0", {})],
    }
    assert chosen(packages, {"tacho": "^1"}) == {"gauge": "1.5.0", "tacho": "1.1.0"}


def test_an_older_version_is_chosen_where_the_newest_does_not_fit() -> None:
    packages: Packages = {
        "tacho": [("1.0.0", {"gauge": "^1"}), ("1.1.0", {"gauge": "^2"})],
        "gauge": GAUGES,
    }
    assert chosen(packages, {"tacho": "*", "gauge": "<2"}) == {"gauge": "1.5.0", "tacho": "1.0.0"}


def test_the_search_goes_back_through_several_packages() -> None:
    packages: Packages = {
        "app": [("1.0.0", {"left": "*", "right": "*"})],
        "left": [("2.0.0", {"shared": "^2"}), ("1.0.0", {"shared": "^1"})],
        "right": [("2.0.0", {"shared": "^3"}), ("1.0.0", {"shared": "^1"})],
        "shared": [("1.0.0", {}), ("2.0.0", {}), ("3.0.0", {})],
    }
    assert chosen(packages, {"app": "1"}) == {
        "app": "1.0.0",
        "left": "1.0.0",
        "right": "1.0.0",
        "shared": "1.0.0",
    }


def test_packages_may_require_each_other_in_a_circle() -> None:
    packages: Packages = {"a": [("1.0.0", {"b": "1"})], "b": [("1.0.0", {"a": "^1"})]}
    assert chosen(packages, {"a": "1"}) == {"a": "1.0.0", "b": "1.0.0"}


def test_nothing_asked_for_is_nothing_chosen() -> None:
    assert chosen({"gauge": GAUGES}, {}) == {}


def test_what_is_installed_stays_where_it_fits() -> None:
    packages: Packages = {
        "tacho": [("1.0.0", {"gauge": "*"}), ("1.1.0", {"gauge": "*"})],
        "gauge": GAUGES,
    }
    installed = {"tacho": "1.0.0", "gauge": "1.4.0"}
    assert chosen(packages, {"tacho": "*"}, installed=installed) == installed
    assert chosen(packages, {"tacho": ">1.0.0"}, installed=installed) == {"tacho": "1.1.0", "gauge": "1.4.0"}
    assert chosen(packages, {"tacho": "1.0.0", "gauge": "^2"}, installed=installed)["gauge"] == "2.0.0"


def test_an_installed_version_that_is_no_longer_offered_is_passed_over() -> None:
    assert chosen({"gauge": GAUGES}, {"gauge": "*"}, installed={"gauge": "1.3.0"}) == {"gauge": "2.0.0"}


def test_prereleases_are_chosen_only_where_they_are_let_in() -> None:
    packages: Packages = {"gauge": [*GAUGES, ("2.1.0-rc.1", {})]}
    assert chosen(packages, {"gauge": "*"}) == {"gauge": "2.0.0"}
    assert chosen(packages, {"gauge": ">=2.1.0-rc.0"}) == {"gauge": "2.1.0-rc.1"}
    assert chosen(packages, {"gauge": "*"}, include_prerelease=True) == {"gauge": "2.1.0-rc.1"}


def test_a_conflict_says_who_needs_what_and_what_exists() -> None:
    packages: Packages = {
        "tacho": [("1.0.0", {"gauge": "^2"}), ("1.1.0", {"gauge": "^2"})],
        "gauge": GAUGES,
    }
    error = refusal(packages, {"tacho": "*", "gauge": "^1"})
    assert error.code == "requires.conflict"
    assert str(error) == (
        "no versions fit together: gauge is needed in ^1 (asked for) and ^2 (by tacho 1.1.0, 1.0.0), "
        "but there is only 2.0.0, 1.5.0, 1.4.0"
    )


def test_a_conflict_deep_below_the_roots_is_explained_where_it_lies() -> None:
    packages: Packages = {
        "app": [("1.0.0", {"middle": "1"})],
        "middle": [("1.0.0", {"low": "^1"})],
        "low": [("1.0.0", {"gauge": "^1"}), ("1.1.0", {"gauge": "^1"})],
        "gauge": GAUGES,
    }
    assert str(refusal(packages, {"app": "1", "gauge": "2"})) == (
        "no versions fit together: gauge is needed in 2 (asked for) and ^1 (by low 1.1.0, 1.0.0), "
        "but there is only 2.0.0, 1.5.0, 1.4.0"
    )


def test_a_package_whose_versions_were_ruled_out_by_others_is_not_blamed() -> None:
    packages: Packages = {
        "a": [("1.0.0", {"a": "^2"}), ("1.1.0", {"b": "*"}), ("2.0.0", {"a": "*", "b": "*"})],
        "b": [("1.0.0", {"a": "*", "b": "^2"})],
    }
    assert str(refusal(packages, {"a": "*"})) == (
        "no versions fit together: b is needed in * (by a 2.0.0, 1.1.0) and ^2 (by b 1.0.0), but there is only 1.0.0"
    )


def test_a_missing_package_is_named_with_who_needs_it() -> None:
    assert str(refusal({"tacho": [("1.0.0", {"gauge": ""})]}, {"tacho": "1"})) == (
        "no versions fit together: gauge is needed in * (by tacho 1.0.0), but there is no such package"
    )


def test_a_root_out_of_range_is_explained() -> None:
    assert str(refusal({"gauge": GAUGES}, {"gauge": "^3"})) == (
        "no versions fit together: gauge is needed in ^3 (asked for), but there is only 2.0.0, 1.5.0, 1.4.0"
    )


def test_where_there_are_only_prereleases_the_explanation_says_so() -> None:
    error = refusal({"gauge": [("1.0.0-rc.1", {})]}, {"gauge": "^1"})
    assert "only 1.0.0-rc.1 (a pre-release fits where a range names it)" in str(error)


def test_the_explanation_stays_one_readable_line_however_much_there_is() -> None:
    packages: Packages = {"gauge": [(f"{n}.0.0", {}) for n in range(100, 200)]}
    packages |= {f"user-{n}": [(f"1.{m}.0", {"gauge": f"~{n}.{m}"}) for m in range(9)] for n in range(9)}
    text = str(refusal(packages, {name: "*" for name in packages if name != "gauge"}))
    assert len(text) <= 600
    assert "more ranges" in text
    assert "but there is only 199.0.0, 198.0.0, 197.0.0, 196.0.0, 195.0.0 and 95 more" in text


def test_the_search_ends_after_its_rounds_and_says_what_clashed_until_then() -> None:
    deep: Packages = {f"p{i}": [(f"{n}.0.0", {f"p{i + 1}": f"<={n}"}) for n in range(1, 9)] for i in range(8)}
    deep["p8"] = [("60.0.0", {})]
    error = refusal(deep, {"p0": "*"}, max_rounds=20)
    assert error.code == "requires.conflict"
    assert str(error).startswith("no fitting versions were found in 20 rounds: p8 is needed in <=1 (by p7 1.0.0)")


@pytest.mark.parametrize(
    ("packages", "roots", "code", "says"),
    [
        ({}, {"gauge": "1,2"}, "version.range", "what is asked for, range of gauge: '1,2' is not"),
        ({"a": [("1.0.0", {"b": "x y"})]}, {"a": "1"}, "version.range", "a 1.0.0, range of b: 'x y' is not"),
        ({"a": [("1.0", {})]}, {"a": "1"}, "version.bad", "package a: '1.0' is not"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(
    packages: Packages, roots: dict[str, str], code: str, says: str
) -> None:
    error = refusal(packages, roots)
    assert error.code == code
    assert str(error).startswith(says)


CLAUSE = re.compile(r"[a-d] is needed in \S+ \((asked for|by [a-d] \d).*\), but there is (only \d|no such)")
NAMES = ["a", "b", "c", "d"]
_versions = st.lists(st.sampled_from(["1.0.0", "1.1.0", "2.0.0"]), min_size=1, max_size=3, unique=True)
_ranges = st.sampled_from(["*", "^1", "1.0.0", "^2", "<2", ">1", "^3"])
_requires = st.dictionaries(st.sampled_from(NAMES), _ranges, max_size=2)


@st.composite
def universes(draw: st.DrawFn) -> Packages:
    names = draw(st.sets(st.sampled_from(NAMES), min_size=1))
    return {name: [(v, draw(_requires)) for v in draw(_versions)] for name in sorted(names)}


def holds_together(packages: Packages, roots: Mapping[str, str], chosen: Mapping[str, str]) -> bool:
    """Whether every requirement of the roots and of what is chosen is met by what is chosen."""
    requirements: list[tuple[str, str]] = list(roots.items())
    for name, version in chosen.items():
        requirements += next(requires for v, requires in packages[name] if v == version).items()
    return all(name in chosen and Range(text).contains(chosen[name]) for name, text in requirements)


def all_choices(packages: Packages) -> Iterable[dict[str, str]]:
    for versions in product(*[[None, *(str(v) for v, _ in offers)] for offers in packages.values()]):
        yield {name: v for name, v in zip(packages, versions, strict=True) if v is not None}


@given(universes(), _requires)
def test_a_solution_is_found_exactly_when_there_is_one(packages: Packages, roots: dict[str, str]) -> None:
    exists = any(holds_together(packages, roots, choice) for choice in all_choices(packages))
    try:
        found = resolve(packages, roots)
    except PublisherError as error:
        assert error.code == "requires.conflict"
        assert all(CLAUSE.match(clause) for clause in str(error).partition(": ")[2].split("; "))
        assert not exists
    else:
        assert holds_together(packages, roots, {name: str(v) for name, v in found.items()})
        assert set(found) == reachable(packages, roots, found)


def reachable(packages: Packages, roots: Mapping[str, str], found: Mapping[str, Version]) -> set[str]:
    seen: set[str] = set()
    ahead = list(roots)
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead += next(requires for v, requires in packages[name] if v == str(found[name]))
    return seen


@given(universes(), _requires)
def test_what_is_installed_and_fits_together_does_not_move(packages: Packages, roots: dict[str, str]) -> None:
    for installed in all_choices(packages):
        if holds_together(packages, roots, installed):
            found = resolve(packages, roots, installed=installed)
            assert all(str(version) == installed[name] for name, version in found.items())
