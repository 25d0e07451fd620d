"""Whether a PostgreSQL database sorts text as Flotilla does: by its bytes, which for UTF-8 is by code points.

Pages go on behind the last id that they showed, searches by pattern have an upper bound, and both compare text in
Python too; SQLite sorts by bytes anyway. A language's order (Debian's default is `en_US.UTF-8`) would skip rows.
"""

from collections.abc import Mapping
from typing import Any, Final

from schemas.errors import one_line

_BY_BYTES: Final = frozenset({"c", "posix", "c.utf8"})
_LIBC: Final = "c"
_BUILTIN: Final = "b"


def wrong_collation(row: Mapping[str, Any]) -> str | None:
    """What is wrong with a database's collation and how to make a database without that, in one line; None if nothing.

    Args:
        row: the database's row of `pg_database`, by column. `datlocprovider` is there from PostgreSQL 15 on, and the
            name of an ICU or builtin locale is in `daticulocale` (15 and 16) or `datlocale` (17 and later).
    """
    provider = row.get("datlocprovider") or _LIBC
    # the other providers' databases have a `datcollate` too, which their order has nothing to do with
    name = row.get("datcollate") if provider == _LIBC else row.get("datlocale") or row.get("daticulocale")
    by_bytes = str(name).lower().replace("-", "") in _BY_BYTES
    if by_bytes and provider in {_LIBC, _BUILTIN}:
        return None
    libc = "" if provider == _LIBC else " --locale-provider=libc"
    icu = " of ICU" if provider == "i" else ""
    return (
        f"its collation is {one_line(name, 80)}{icu} and has to be C, POSIX or C.UTF-8; "
        f"make another with: createdb --template=template0 --encoding=UTF8{libc} --locale=C.UTF-8 NAME"
    )
