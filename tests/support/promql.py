"""The metrics and labels that a PromQL query names, well enough for the dashboard that ships."""

import re
from dataclasses import dataclass

_WORD = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_KEYWORDS = {"by", "without", "on", "ignoring", "or", "and", "unless", "group_left", "group_right", "offset", "bool"}


@dataclass(frozen=True)
class Named:
    """`matched` are labels of the one metric they stand behind; `grouped` belong to any metric of the query."""

    metrics: set[str]
    matched: set[tuple[str, str]]
    grouped: set[str]


def named(query: str) -> Named:
    """What `query` names. Raises AssertionError where something is left that is neither a name nor an operator."""
    matched = set()
    for metric, matchers in re.findall(rf"({_WORD})\{{([^}}]*)\}}", query):
        matched |= {(metric, label) for label in re.findall(rf"({_WORD})\s*(?:=~|!~|!=|=)\s*\"[^\"]*\"", matchers)}
    bare = re.sub(r"\{[^}]*\}", "", query)
    bare = re.sub(r"\[[^\]]*\]", "", bare)
    grouped: set[str] = set()
    for labels in re.findall(r"\b(?:by|without)\s*\(([^)]*)\)", bare):
        grouped |= {label.strip() for label in labels.split(",")}
    bare = re.sub(r"\b(?:by|without)\s*\([^)]*\)", "", bare)
    bare = re.sub(rf"{_WORD}\s*\(", "(", bare)  # functions
    words = set(re.findall(_WORD, bare)) - _KEYWORDS
    left = re.sub(rf"{_WORD}|[0-9.]+|[-+*/(),\s]", "", bare)
    assert not left, f"{query}: cannot read {left!r}"
    return Named(words, matched, grouped)
