"""Which of PostgreSQL's orders Flotilla takes."""

from typing import Any

import pytest

from controller.collation import wrong_collation

MAKE = "createdb --template=template0 --encoding=UTF8 "


@pytest.mark.parametrize(
    "row",
    [
        {"datcollate": "C"},  # up to 14 there is nothing but libc
        {"datcollate": "POSIX"},
        {"datcollate": "C.UTF-8", "datlocprovider": "c", "daticulocale": None},
        {"datcollate": "C.utf8", "datlocprovider": "c", "daticulocale": None},
        {"datcollate": "en_US.UTF-8", "datlocprovider": "b", "datlocale": "C.UTF-8"},
        {"datcollate": "en_US.UTF-8", "datlocprovider": "b", "datlocale": "C"},
    ],
)
def test_an_order_by_bytes_is_taken(row: dict[str, Any]) -> None:
    assert wrong_collation(row) is None


@pytest.mark.parametrize(
    ("row", "name", "make"),
    [
        ({"datcollate": "en_US.UTF-8"}, "en_US.UTF-8", MAKE + "--locale=C.UTF-8"),
        ({"datcollate": "en_US.utf8", "datlocprovider": "c"}, "en_US.utf8", MAKE + "--locale=C.UTF-8"),
        ({"datcollate": "de_DE@euro", "datlocprovider": "c"}, "de_DE@euro", MAKE + "--locale=C.UTF-8"),
        (
            {"datcollate": "C.UTF-8", "datlocprovider": "i", "daticulocale": "en-US"},
            "en-US of ICU",
            MAKE + "--locale-provider=libc --locale=C.UTF-8",
        ),
        ({"datcollate": "C", "datlocprovider": "i", "datlocale": "C"}, "C of ICU", "--locale-provider=libc"),
        ({"datcollate": "C", "datlocprovider": "b", "datlocale": "PG_X"}, "PG_X", "--locale-provider=libc"),
        ({"datcollate": "C", "datlocprovider": "z", "datlocale": "C"}, "is C", "--locale-provider=libc"),
        ({}, "None", MAKE),
    ],
)
def test_any_other_order_is_refused_with_how_to_make_the_database(row: dict[str, Any], name: str, make: str) -> None:
    line = wrong_collation(row)
    assert line is not None
    assert name in line
    assert make in line
    assert "\n" not in line
