"""Hypothesis strategies for versions and ranges."""

from hypothesis import strategies as st

from schemas.versions import Version, parse

_identifier = st.from_regex(r"0|[1-9][0-9]{0,6}|[0-9]{0,3}[A-Za-z-][0-9A-Za-z-]{0,6}", fullmatch=True)
_build_identifier = st.from_regex(r"[0-9A-Za-z-]{1,6}", fullmatch=True)
_number = st.integers(min_value=0, max_value=10**20)


def _version(numbers: tuple[int, int, int], prerelease: list[str], build: list[str]) -> Version:
    return parse(".".join(map(str, numbers)) + _after("-", prerelease) + _after("+", build))


def _after(sign: str, identifiers: list[str]) -> str:
    return sign + ".".join(identifiers) if identifiers else ""


versions = st.builds(
    _version,
    st.tuples(_number, _number, _number),
    st.lists(_identifier, max_size=4),
    st.lists(_build_identifier, max_size=2),
)
"""Any versions at all."""

_small = st.sampled_from([0, 0, 1, 2, 10])
_few = st.sampled_from(["0", "1", "2", "10", "a", "b", "rc", "-", "0a"])
_builds = st.sampled_from([[], [], ["b"], ["0", "7"]])

releases = st.builds(_version, st.tuples(_small, _small, _small), st.just([]), _builds)
"""Releases so close to each other that a range or a step between two of them means something."""

close_versions = st.builds(_version, st.tuples(_small, _small, _small), st.lists(_few, max_size=2), _builds)
"""As `releases`, with pre-releases."""

_part = st.sampled_from(["0", "1", "2", "10", "x", "*"])
_partials = st.one_of(
    _small.map(str),
    st.tuples(_small, _part).map(lambda t: f"{t[0]}.{t[1]}"),
    st.tuples(_small, _small, _part).map(lambda t: f"{t[0]}.{t[1]}.{t[2]}"),
    close_versions.map(str),
)
_terms = st.tuples(st.sampled_from(["", "=", "<", ">", "<=", ">=", "^", "~", "~> ", "> "]), _partials).map("".join)

alternatives = st.one_of(
    st.lists(_terms, min_size=0, max_size=3).map(" ".join),
    st.tuples(_partials, _partials).map(" - ".join),
)
"""Texts of ranges without `||`."""
