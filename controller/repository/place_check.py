"""Compares where a repository is kept with its folder, byte for byte."""

from controller.repository.place import Place
from controller.repository.records import Problem
from schemas.errors import FlotillaError


def check_place(place: Place | None) -> list[Problem]:
    """What is missing or different at the place; nothing where there is no place."""
    if place is None:
        return []
    try:
        return [
            Problem(
                code="data.bad",
                where=f"{place.url}/{key}",
                message=f"{what}, compared with the data folder; when that is right, run `flotilla repository upload`",
            )
            for key, what in place.differences()
        ]
    except FlotillaError as error:
        return [Problem(code=error.code, where=place.url, message=str(error))]
