"""Versions as bytes: the database's order is SemVer's, and what it finds in a range is what node-semver finds."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controller.repository.ordering import is_prerelease, newest_first, spans_of, version_key
from schemas.ranges import Range
from schemas.versions import Version, compare, parse
from tests.unit.version_strategies import alternatives, close_versions

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "versions" / "ranges.json").read_text()
)["contains"]

IDENTIFIERS = st.one_of(
    st.integers(0, 10**12).map(str),
    st.text("0aZ-", min_size=1, max_size=5).filter(lambda t: not t.isdigit()),
    st.sampled_from(["alpha", "alpha-x", "rc", "beta", "a", "-", "--", "zzz"]),
)
NUMBERS = st.one_of(st.integers(0, 20), st.integers(0, 10**30))
VERSIONS = st.builds(
    lambda numbers, words: ".".join(map(str, numbers)) + ("-" + ".".join(words) if words else ""),
    st.tuples(NUMBERS, NUMBERS, NUMBERS),
    st.lists(IDENTIFIERS, max_size=4),
)


@given(VERSIONS, VERSIONS)
def test_keys_sort_as_versions_do(a: str, b: str) -> None:
    left, right = version_key(a), version_key(b)
    assert (left > right) - (left < right) == compare(a, b)


def test_the_examples_of_the_specification_are_in_order() -> None:
    # SemVer 2.0.0, item 11
    versions = [
        *("1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11"),
        *("1.0.0-rc.1", "1.0.0", "2.0.0", "2.1.0", "2.1.1", "10.0.0"),
    ]
    assert all(version_key(a) < version_key(b) for a, b in pairwise(versions))


def test_build_metadata_plays_no_part() -> None:
    assert version_key("1.0.0+a") == version_key("1.0.0+b") == version_key("1.0.0")


def is_in_spans(version: Version, versions: Range) -> bool:
    """As a database compares them."""
    key = version_key(version)
    spans = spans_of(versions)
    some = spans.prereleases if is_prerelease(key) else spans.releases
    return any(least <= newest_first(key) < behind for least, behind in some)


@given(close_versions, st.lists(alternatives, min_size=1, max_size=4).map("||".join))
@example(parse("1.2.3-rc.2"), ">=1.2.3-rc.1")
@example(parse("1.2.4-rc.2"), ">=1.2.3-rc.1")
@example(parse("1.2.3"), "<=1.2.3-rc.1 || >1.2.3")
@example(parse("1.2.3-0"), ">1.2.2 <1.2.3-0 || 1.2.3-1")
def test_a_version_is_in_a_ranges_spans_exactly_if_the_range_contains_it(version: Version, text: str) -> None:
    assert is_in_spans(version, Range(text)) is Range(text).contains(version)


@pytest.mark.parametrize("case", [case for case in VECTORS if not case["include_prerelease"]])
def test_spans_hold_what_node_semver_says(case: dict[str, Any]) -> None:
    assert is_in_spans(parse(case["version"]), Range(case["range"])) is case["expected"]


def test_spans_of_alternatives_that_overlap_are_one() -> None:
    assert spans_of(Range("1.x || >=1.5 <2.5")) == spans_of(Range(">=1.0.0 <2.5"))
    assert len(spans_of(Range("1.x || >=1.5 <2.5 || 3.x")).releases) == 2


def test_a_range_that_nothing_is_in_has_no_spans() -> None:
    assert spans_of(Range(">2 <1")) == ((), ())


def test_a_version_too_long_to_be_published_may_bound_a_range() -> None:
    assert is_in_spans(parse("2.0.0"), Range(">1.2.3-" + "a" * 400))
