"""Finds keys and kinds that a typed TOML document does not have, and says which ones were probably meant."""

import difflib
from collections.abc import Iterable
from typing import Any

import msgspec.inspect as mi

from controller.meant import did_you_mean
from schemas.errors import one_line


def unknown_key(data: object, kind: type) -> str:
    """One line on the first key of `data` that `kind` does not know, or an empty string.

    So is text that is none of the few words that may stand there: a `Literal`, or what tells one table from another.
    All other values, and those of a wrong type, are left to the conversion that follows.

    Args:
        data: what `tomllib` made of the file.
        kind: the msgspec struct of the whole document.
    """
    return _walk(data, mi.type_info(kind), "")


def _walk(value: object, kind: mi.Type, where: str) -> str:
    match kind:
        case mi.UnionType():
            return _no_tag(value, kind.types, where) or _walk(value, _chosen(value, kind.types), where)
        case mi.LiteralType() if isinstance(value, str):
            return _no_word(value, kind.values, where)
        case mi.StructType() if isinstance(value, dict):
            return _walk_struct(value, kind, where)
        case mi.DictType() if isinstance(value, dict):
            return _first(_walk(item, kind.value_type, _below(where, key)) for key, item in value.items())
        case mi.ListType() | mi.VarTupleType() if isinstance(value, list):
            return _first(_walk(item, kind.item_type, f"{where}[{index}]") for index, item in enumerate(value))
    return ""


def _walk_struct(value: dict[str, Any], kind: mi.StructType, where: str) -> str:
    fields = {field.encode_name: field.type for field in kind.fields}
    known = [*fields, *([kind.tag_field] if kind.tag_field else [])]
    for key in value:
        if key not in known:
            return _message(key, known, where)
    return _first(_walk(item, fields[key], _below(where, key)) for key, item in value.items() if key in fields)


def _chosen(value: object, kinds: Iterable[mi.Type]) -> mi.Type:
    """The alternative that `value` is meant to be, as far as its form tells."""
    structs = [kind for kind in kinds if isinstance(kind, mi.StructType)]
    if isinstance(value, dict):
        for kind in structs:
            if kind.tag_field is None or value.get(kind.tag_field) == kind.tag:
                return kind
    return mi.AnyType()


def _no_tag(value: object, kinds: Iterable[mi.Type], where: str) -> str:
    """Of a table whose kind is told by a key, as `type`: what is wrong where it names none."""
    tagged = [kind for kind in kinds if isinstance(kind, mi.StructType) and kind.tag_field is not None]
    key = tagged[0].tag_field if tagged else None
    given = value.get(key) if key is not None and isinstance(value, dict) else None
    return _no_word(given, [kind.tag for kind in tagged], _below(where, str(key))) if isinstance(given, str) else ""


def _no_word(given: str, words: Iterable[object], where: str) -> str:
    known = sorted(word for word in words if isinstance(word, str))
    if given in known or not known:
        return ""
    near = difflib.get_close_matches(given, known, n=2, cutoff=0.6)
    return f"{where}: {one_line(given, 60)!r} is none of {', '.join(known)}{did_you_mean(near)}"


def _message(key: str, known: list[str], where: str) -> str:
    near = difflib.get_close_matches(key, known, n=2, cutoff=0.6)
    if near:
        hint = f"did you mean {' or '.join(repr(name) for name in near)}?"
    else:
        hint = f"known here: {', '.join(sorted(known))}"
    return f"unknown key {one_line(key, 60)!r}{f' in {where}' if where else ''}; {hint}"


def _below(where: str, key: str) -> str:
    key = one_line(key, 60)
    return f"{where}.{key}" if where else key


def _first(messages: Iterable[str]) -> str:
    return next(filter(None, messages), "")
