"""Placeholders: filled in as text, never evaluated."""

import pytest

from schemas.errors import DeviceError, PublisherError
from schemas.templates import fill, placeholders


def test_placeholders_are_found_and_filled() -> None:
    text = "port = ${settings.port} # costs $$5 on ${device.id}"
    assert placeholders(text, "app.in") == ["settings.port", "device.id"]
    assert fill(text, {"settings.port": "80", "device.id": "pi-1"}, "app.in") == "port = 80 # costs $5 on pi-1"


def test_a_value_is_never_a_template_itself() -> None:
    assert fill("${settings.a}", {"settings.a": "${settings.b}", "settings.b": "x"}, "t") == "${settings.b}"


@pytest.mark.parametrize("text", ["$", "${}", "${settings.}", "$5", "${SETTINGS.a}", "${settings}", "${a b}"])
def test_malformed_placeholders_name_their_place(text: str) -> None:
    with pytest.raises(PublisherError, match=r"app\.in: "):
        placeholders(text, "app.in")


def test_unknown_scopes_are_refused() -> None:
    with pytest.raises(PublisherError, match="unknown placeholder"):
        placeholders("${environment.HOME}", "app.in")


def test_a_missing_value_says_which_and_what_to_do() -> None:
    with pytest.raises(DeviceError, match=r"no value for \$\{settings.port\}; set it in agent.toml") as caught:
        fill("${settings.port}", {}, "app.in")
    assert caught.value.code == "requires.setting"
