"""Why a file that people write is no TOML, in words for whoever wrote it. Quotes nothing of it, unless that may be."""

import re
import tomllib
from typing import Final

from schemas.errors import one_line

_WORDS: Final = {
    "Invalid value": "what stands behind = is no value; text is written in double quotes",
    "Invalid statement": "a line is KEY = VALUE, or {tables} where {one} begins",
    "Expected '=' after a key in a key/value pair": "behind the key an = is missing",
    "Expected ']]' at the end of an array declaration": "{brackets}",
    "Expected ']' at the end of a table declaration": "{brackets}",
    "Expected newline or end of document after a statement": "more stands behind the value; text is in double quotes",
    "Cannot overwrite a value": "a key is there for the second time; each {noun} begins with a line of its own",
    "Unterminated string": "a text is not closed; it ends with the quotes that it begins with",
    'Expected "\'"': "a text is not closed; it ends with the quotes that it begins with",
    "Unclosed array": "a list is not closed; it ends with ]",
}
"""What the parser says where it quotes nothing of the file."""

_TWICE: Final = re.compile(r"Cannot declare \('[^']*',\) twice")
"""Of a table with one bracket each, which can be there once."""


def no_toml(error: tomllib.TOMLDecodeError, *, noun: str, tables: tuple[str, ...], quotes: bool) -> str:
    """Why a file is no TOML, and where: `is no TOML (at line 3, column 7): …`.

    Args:
        error: of the parser.
        noun: what the file lists, as `target`.
        tables: how these begin, as `[[apprise]]`.
        quotes: whether the parser's own words may be told, which have keys of the file in them.
    """
    what, place = re.fullmatch(r"(.*?)(?: \((at .*)\))?", str(error), re.DOTALL).groups()  # type: ignore[union-attr]  # it fits any text
    begins = " or ".join(tables)
    brackets = f"a {noun} begins with {begins}, two brackets each"
    # the text of a line goes on to the next
    if what.startswith("Illegal character '\\n'"):
        why = "a text is not closed on its line"
    elif _TWICE.fullmatch(what):
        why = brackets
    else:
        known = _WORDS.get(what, "")
        why = known.format(tables=begins, one=f"a {noun}", noun=noun, brackets=brackets)
    shown = "https://toml.io shows how it is written"
    if not why:
        why = f"{one_line(what, 120)}; {shown}" if quotes else ""
    return f"is no TOML ({place or 'somewhere'}){f': {why}' if why else f'; {shown}'}"


def no_text(error: UnicodeDecodeError) -> str:
    """Why a file is no text, and where."""
    line = error.object.count(b"\n", 0, error.start) + 1
    return f"is no text in UTF-8 (at line {line}); save it as such"
