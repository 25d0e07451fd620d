"""Ranges with node-semver's meaning. Every expectation of the vectors holds in node-semver 7.8 as well."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import PublisherError
from schemas.ranges import MAX_RANGE_CHARS, Range, newest
from schemas.versions import Version, compare, parse
from tests.unit.version_strategies import alternatives, close_versions

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "versions" / "ranges.json").read_text()
)
REFUSED = [case for group in ("invalid", "refused_on_purpose", "over_a_limit") for case in VECTORS[group]]


def _id(case: dict[str, Any]) -> str:
    return " ".join(ascii(value)[:40] for value in case.values())


@pytest.mark.parametrize("case", VECTORS["contains"] + VECTORS["beyond_node"], ids=_id)
def test_contains(case: dict[str, Any]) -> None:
    found = Range(case["range"]).contains(case["version"], include_prerelease=case["include_prerelease"])
    assert found is case["expected"]


@pytest.mark.parametrize("case", VECTORS["written_out"], ids=_id)
def test_short_forms_stand_for_these_comparators(case: dict[str, Any]) -> None:
    assert Range(case["range"]).comparators == case["comparators"]


@pytest.mark.parametrize("case", REFUSED, ids=_id)
def test_what_is_no_range_is_refused_in_one_line(case: dict[str, Any]) -> None:
    with pytest.raises(PublisherError) as caught:
        Range(case["range"])
    assert caught.value.code == case["code"]
    assert case["says"] in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_range_of_the_greatest_length_is_read() -> None:
    text = "1.2.3-" + "a" * (MAX_RANGE_CHARS - 6)
    assert Range(text).comparators == text


def test_thirty_two_alternatives_are_read() -> None:
    assert Range("||".join(f"{n}.x" for n in range(32))).contains("31.5.0")


def test_a_range_is_shown_as_it_was_written_with_single_blanks() -> None:
    assert str(Range("  >=1.2\t\n <3 ||  4.x ")) == ">=1.2 <3 || 4.x"
    assert repr(Range("^1")) == "Range('^1')"


def test_ranges_that_mean_the_same_are_equal() -> None:
    assert Range("^1.2") == Range("^1.2.x")
    assert hash(Range("^1.2")) == hash(Range("^1.2.x"))
    assert Range("1.x") != Range("2.x")
    assert Range("1.x") != "1.x"


def test_a_version_that_is_none_is_refused() -> None:
    with pytest.raises(PublisherError, match="not a SemVer"):
        Range("*").contains("1.2")


def test_newest_of_those_in_range() -> None:
    published = ["1.9.0", "1.10.0", "1.10.1-rc.1", "2.0.0"]
    assert newest(published, Range("^1.2")) == parse("1.10.0")
    assert newest(published, Range("^1.2"), include_prerelease=True) == parse("1.10.1-rc.1")
    assert newest(published, Range("^3")) is None
    assert newest([], Range("*")) is None


@pytest.mark.parametrize("published", [["1.0.0+a", "1.0.0+b", "1.0.0"], ["1.0.0", "1.0.0+b", "1.0.0+a"]])
def test_newest_does_not_depend_on_the_order_of_builds(published: list[str]) -> None:
    assert str(newest(published, Range("1"))) == "1.0.0+b"


@given(st.lists(close_versions, max_size=8), alternatives, st.booleans())
def test_newest_is_the_greatest_of_those_contained(pool: list[Version], text: str, pre: bool) -> None:
    within = Range(text)
    contained = [v for v in pool if within.contains(v, pre)]
    found = newest(pool, within, pre)
    assert (found is None) == (not contained)
    if found is not None:
        assert found in contained
        assert all(compare(v, found) <= 0 for v in contained)


@given(alternatives, alternatives, close_versions, st.booleans())
def test_a_union_contains_what_either_contains(a: str, b: str, version: Version, pre: bool) -> None:
    left, right = Range(a), Range(b)
    either = left.contains(version, pre) or right.contains(version, pre)
    # As in node-semver, an alternative that is any stands for the whole union, and any has no pre-releases.
    if not pre and version.prerelease is not None and "*" in (left.comparators, right.comparators):
        either = False
    assert Range(f"{a}||{b}").contains(version, pre) == either


@given(alternatives, close_versions)
def test_letting_prereleases_in_takes_no_version_away(text: str, version: Version) -> None:
    within = Range(text)
    if within.contains(version):
        assert within.contains(version, include_prerelease=True)


@given(alternatives, close_versions)
def test_a_written_out_range_means_the_same(text: str, version: Version) -> None:
    within = Range(text)
    assert Range(within.comparators).contains(version) == within.contains(version)


@given(st.text(alphabet="0123.xX*v=<>~^-+| ab,!\t", max_size=24))
def test_any_text_is_a_range_or_refused_in_one_line(text: str) -> None:
    try:
        within = Range(text)
    except PublisherError as error:
        assert error.code == "version.range"
        assert str(error).isprintable()
    else:
        assert Range(str(within)) == within


@given(close_versions)
def test_an_exact_version_contains_itself_alone(version: Version) -> None:
    assert Range(str(version)).contains(version)
    assert not Range(f">{version}").contains(version, include_prerelease=True)
    assert not Range(f"<{version}").contains(version, include_prerelease=True)
