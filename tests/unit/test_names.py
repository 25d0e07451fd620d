"""What is said of values that are no names, keys, versions or numbers as they should be."""

from typing import Annotated, Any

import msgspec
import pytest

from schemas.names import ChannelName, Key, PackageName, VersionText, in_words, wrong


@pytest.mark.parametrize(
    ("value", "kind", "says"),
    [
        ("a b", Key, "must be a key: letters, digits, '_', '.' and '-', first a letter, at most 63"),
        ("a b", PackageName, "must be a name: a-z, 0-9 and '-', first a letter or digit, at most 63"),
        ("a b", ChannelName, "must be a short name: a-z, 0-9 and '-', first a letter or digit, at most 32"),
        ("1", VersionText, "must be a full version such as 1.2.0"),
        ("1" * 300, VersionText, "must be text of at most 256 characters"),
        ("", Annotated[str, msgspec.Meta(min_length=1)], "must be text of at least 1 character"),
        ({}, Annotated[dict[str, str], msgspec.Meta(min_length=2)], "must be a table of at least 2 entries"),
        ([1, 2], Annotated[list[int], msgspec.Meta(max_length=1)], "must be a list of at most 1 entry"),
        (0, Annotated[int, msgspec.Meta(ge=1)], "must be a whole number >= 1"),
        ("x", bool, "must be true or false, not text"),
        ("x", Annotated[str, msgspec.Meta(pattern="^y(?!\\n)$")], "must be text of the form '^y$'"),
    ],
)
def test_what_is_wrong_is_said_in_words(value: object, kind: Any, says: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(value, kind)
    assert in_words(str(caught.value)) == says


class Thing(msgspec.Struct):
    pins: dict[PackageName, VersionText] = {}
    channel: ChannelName = "stable"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"pins": {"nix": "1"}}, "a value of pins: must be a full version such as 1.2.0"),
        ({"pins": {"N x": "1.0.0"}}, "pins: must be a name: a-z"),
        ({"channel": "A"}, "channel: must be a short name: a-z"),
        ([], "must be a table, not a list"),
    ],
)
def test_where_it_is_wrong_is_said_too(value: object, says: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(value, Thing)
    assert wrong(caught.value).startswith(says)


def test_a_form_that_is_known_elsewhere_is_told_along() -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert("x", Annotated[str, msgspec.Meta(pattern="^y$")])
    assert in_words(str(caught.value), {"^y$": "the letter y"}) == "must be the letter y"
