"""Versions as bytes: the database's order is SemVer's."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from controller.repository.ordering import version_key
from schemas.versions import compare

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
