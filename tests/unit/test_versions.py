"""SemVer 2.0.0: what is a version, in which order versions come, and what the step between two promises."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import PublisherError
from schemas.ranges import Range
from schemas.versions import Compatibility, Version, bump, compare, compatibility, parse, precedence_key
from tests.unit.version_strategies import close_versions, releases, versions

VECTORS = Path(__file__).parents[1] / "vectors" / "versions"
PRECEDENCE: dict[str, list[Any]] = json.loads((VECTORS / "precedence.json").read_text())
STEPS: dict[str, list[dict[str, str]]] = json.loads((VECTORS / "steps.json").read_text())
BUMPS = st.sampled_from(["major", "minor", "patch", "prerelease"])


@pytest.mark.parametrize("chain", PRECEDENCE["ascending"], ids=lambda chain: chain[0])
def test_every_pair_of_an_ascending_chain_compares_as_it_stands_there(chain: list[str]) -> None:
    for i, a in enumerate(chain):
        for j, b in enumerate(chain):
            assert compare(a, b) == (i > j) - (i < j), f"{a} against {b}"
    assert all(precedence_key(a) < precedence_key(b) for a, b in pairwise(chain))


@pytest.mark.parametrize(("a", "b"), PRECEDENCE["equal"])
def test_build_metadata_plays_no_part_in_precedence(a: str, b: str) -> None:
    assert compare(a, b) == compare(b, a) == 0
    assert precedence_key(a) == precedence_key(b)


@pytest.mark.parametrize("text", PRECEDENCE["valid"])
def test_a_valid_version_is_read_and_written_back_as_it_was(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize("case", PRECEDENCE["invalid"], ids=lambda case: ascii(case["version"])[:40])
def test_what_is_no_version_is_refused_in_one_line(case: dict[str, str]) -> None:
    with pytest.raises(PublisherError) as caught:
        parse(case["version"])
    assert caught.value.code == case["code"]
    assert case["says"] in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("case", STEPS["bump"], ids=lambda case: f"{case['version']}-{case['part']}")
def test_bump(case: dict[str, str]) -> None:
    assert str(bump(case["version"], case["part"])) == case["next"]


def test_bump_names_a_new_prerelease_as_told() -> None:
    assert str(bump("1.2.3", "prerelease", label="beta")) == "1.2.4-beta.1"


@pytest.mark.parametrize(
    ("version", "part", "label", "says"),
    [
        ("1.2.3", "build", "rc", "cannot bump 'build': say major, minor, patch, prerelease"),
        ("1.2.3", "prerelease", "no_good", "'1.2.4-no_good.1' is not a SemVer 2.0.0 version"),
        ("1.2", "patch", "rc", "'1.2' is not a SemVer 2.0.0 version"),
        ("1.0.0-" + "a" * 250, "prerelease", "rc", "a version of 258 characters is too long"),
    ],
)
def test_bump_refuses_what_gives_no_version(version: str, part: str, label: str, says: str) -> None:
    with pytest.raises(PublisherError) as caught:
        bump(version, part, label=label)
    assert caught.value.code == "version.bad"
    assert says in str(caught.value)


@pytest.mark.parametrize("case", STEPS["compatibility"], ids=lambda case: f"{case['old']}-to-{case['new']}")
def test_compatibility(case: dict[str, str]) -> None:
    assert compatibility(case["old"], case["new"]) is Compatibility(case["level"])


@given(versions)
def test_a_version_is_read_back_from_its_text(version: Version) -> None:
    assert parse(str(version)).to_tuple() == version.to_tuple()


@given(close_versions, close_versions, close_versions)
def test_precedence_is_a_total_order(a: Version, b: Version, c: Version) -> None:
    assert compare(a, b) == -compare(b, a)
    if compare(a, b) <= 0 and compare(b, c) <= 0:
        assert compare(a, c) <= 0
    assert (compare(a, b) == 0) == (a.to_tuple()[:4] == b.to_tuple()[:4])


@given(close_versions, close_versions)
def test_precedence_is_that_of_the_library(a: Version, b: Version) -> None:
    assert compare(a, b) == a.compare(b)


@given(versions, BUMPS)
def test_a_bumped_version_follows_and_carries_no_build_metadata(version: Version, part: str) -> None:
    bumped = bump(version, part)
    assert compare(version, bumped) < 0
    assert bumped.build is None
    assert (bumped.prerelease is not None) == (part == "prerelease")


@given(close_versions, close_versions)
def test_a_step_is_a_downgrade_one_way_and_an_upgrade_the_other(a: Version, b: Version) -> None:
    order = compare(a, b)
    assert (compatibility(a, b) is Compatibility.DOWNGRADE) == (order > 0)
    assert (compatibility(a, b) is Compatibility.IDENTICAL) == (order == 0)


@given(releases, releases)
def test_between_releases_what_a_caret_contains_is_what_is_compatible(old: Version, new: Version) -> None:
    compatible = {Compatibility.IDENTICAL, Compatibility.PATCH, Compatibility.MINOR}
    assert (compatibility(old, new) in compatible) == Range(f"^{old}").contains(new)


@given(close_versions, releases, releases)
def test_a_further_release_never_promises_more_than_a_nearer_one(old: Version, a: Version, b: Version) -> None:
    near, far = sorted((a, b), key=precedence_key)
    rank = [Compatibility.IDENTICAL, Compatibility.PATCH, Compatibility.MINOR, Compatibility.MAJOR]
    if compare(old, near) <= 0:
        assert rank.index(compatibility(old, near)) <= rank.index(compatibility(old, far))


def test_versions_and_ranges_are_importable_where_the_resolver_is_not_installed() -> None:
    script = "import sys, schemas.ranges, schemas.versions; print('resolvelib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "False"
