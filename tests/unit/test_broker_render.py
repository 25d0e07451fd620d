"""Runnable copies of the broker's configurations."""

from pathlib import Path
from typing import Any

import pytest

from broker_config import ACL_ROOT, BrokerMissing, BrokerSettings, MosquittoProcess, acl, render
from schemas import topics

FILES: dict[str, Any] = {
    "acl_file": Path("/f/acl"),
    "password_file": Path("/f/passwords"),
    "ca_file": Path("/f/ca.pem"),
    "cert_file": Path("/f/server.pem"),
    "key_file": Path("/f/server.key"),
}


def test_a_copy_differs_only_in_addresses_and_paths() -> None:
    text = render("development.conf", port=1884, data_dir=Path("/data"))
    assert "listener 1884 127.0.0.1" in text.splitlines()
    assert "persistence_location /data/" in text.splitlines()
    source = Path("broker_config/development.conf")
    original = [line for line in source_lines(source) if not line.startswith(("listener", "persistence_location"))]
    assert [line for line in text.splitlines() if line in original] == original


def test_without_a_folder_nothing_is_kept() -> None:
    lines = render("development.conf", port=1884).splitlines()
    assert "persistence false" in lines
    assert not [line for line in lines if line.startswith("persistence_location")]


def test_production_has_both_listeners_or_only_the_first() -> None:
    both = render("production.conf", port=1, certificate_port=2, host="::1", user="root", **FILES)
    assert [line for line in both.splitlines() if line.startswith("listener")] == ["listener 1 ::1", "listener 2 ::1"]
    assert both.splitlines()[0] == "user root"
    assert both.count("certfile /f/server.pem") == 2
    one = render("production.conf", port=1, **FILES)
    assert "require_certificate" not in one
    assert one.count("certfile") == 1


@pytest.mark.parametrize("missing", sorted(FILES))
def test_a_path_that_production_needs_is_named_when_it_is_missing(missing: str) -> None:
    files = {name: path for name, path in FILES.items() if name != missing}
    with pytest.raises(BrokerSettings, match=f"{missing} is missing"):
        render("production.conf", port=1, **files)


def test_a_path_can_not_smuggle_in_a_line() -> None:
    with pytest.raises(BrokerSettings, match="can't stand"):
        render("development.conf", port=1, data_dir=Path("/data\nallow_anonymous true\n#"))


def test_there_is_no_other_configuration() -> None:
    with pytest.raises(BrokerSettings, match=r"development\.conf and production\.conf"):
        render("../secrets", port=1)


def test_the_acl_has_the_root_of_the_contract() -> None:
    assert ACL_ROOT == topics.DEFAULT_ROOT
    assert acl().count(f" {ACL_ROOT}/") == 14


def test_the_acl_can_have_another_root() -> None:
    text = acl("acme/fleet/v1")
    rules = [line for line in text.splitlines() if line.startswith(("topic ", "pattern "))]
    ours = [rule for rule in rules if " homeassistant/" not in rule]
    assert (len(ours), len(rules) - len(ours)) == (14, 4)
    assert all(" acme/fleet/v1/" in rule for rule in ours)


@pytest.mark.parametrize("root", ["", "a b", "a/#", "+/a", "/a", "a/", "a\nuser x"])
def test_a_root_that_would_change_the_rules_is_refused(root: str) -> None:
    with pytest.raises(BrokerSettings, match="topic root"):
        acl(root)


def test_a_missing_mosquitto_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("broker_config.process._FOLDERS", (str(tmp_path),))
    with pytest.raises(BrokerMissing, match=r"sudo apt install mosquitto.*brew install mosquitto") as missing:
        MosquittoProcess(tmp_path)
    assert missing.value.code == "broker.missing"
    assert "\n" not in str(missing.value)


def source_lines(path: Path) -> list[str]:
    text = (Path(__file__).parents[2] / path).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]
