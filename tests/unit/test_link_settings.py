"""Addresses, passwords and certificates, as far as they can be judged without a broker."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from tests.support.certificates import Authority
from transport import Address, LinkSettings, SettingsError


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("mqtt://broker", "broker", 1883, False),
        ("mqtt://127.0.0.1:1884/", "127.0.0.1", 1884, False),
        ("mqtts://broker.example", "broker.example", 8883, True),
        ("mqtt://[::1]:1", "::1", 1, False),
    ],
)
def test_an_address_has_host_port_and_tls(url: str, host: str, port: int, tls: bool) -> None:
    address = Address.parse(url)
    assert address == Address(host=host, port=port, tls=tls)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("broker:1883", "mqtt://HOST:PORT"),
        ("http://broker", "mqtts://HOST:PORT"),
        ("mqtt://", "missing"),
        ("mqtt://broker:0", "missing"),
        ("mqtt://broker:70000", "Port out of range"),
        ("mqtt://broker:x", "mqtt://HOST:PORT"),
        ("mqtt://broker/path", "nothing may follow"),
        ("mqtt://[::1", "mqtt://HOST:PORT"),
    ],
)
def test_what_is_no_address_is_refused_in_one_line(url: str, words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Address.parse(url)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.code == "broker.settings"


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(SettingsError) as refused:
        Address.parse("mqtt://me:hush@broker")
    assert "hush" not in str(refused.value)


def test_a_password_does_not_show_when_settings_are_printed() -> None:
    assert "hush" not in repr(LinkSettings(url="mqtt://b", client_id="a", username="me", password="hush"))


def test_the_password_comes_from_a_file_without_its_line_end(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hush\n")
    assert LinkSettings(url="mqtt://b", client_id="a", username="me", password_file=file).secret() == "hush"


@pytest.mark.parametrize("content", [b"", b"\n", b"one\ntwo\n", b"\xff\xfe", b"x" * 5000])
def test_a_file_that_holds_no_password_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match="password file"):
        LinkSettings(url="mqtt://b", client_id="a", username="me", password_file=file).secret()


def test_a_password_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=str(tmp_path / "none")):
        LinkSettings(url="mqtt://b", client_id="a", username="me", password_file=tmp_path / "none").secret()


def test_a_password_needs_a_username_and_only_one_source(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="username"):
        LinkSettings(url="mqtt://b", client_id="a", password="x").secret()
    with pytest.raises(SettingsError, match="not both"):
        LinkSettings(url="mqtt://b", client_id="a", username="m", password="x", password_file=tmp_path).secret()


def test_certificate_files_need_an_address_with_tls(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="mqtts://"):
        LinkSettings(url="mqtt://b", client_id="a", ca_file=tmp_path / "ca.pem").address()


def test_certificate_files_are_checked_before_anything_is_sent(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.client("pi")
    other = Authority(tmp_path / "other").client("pi")

    def context(**files: Any) -> object:
        return LinkSettings(url="mqtts://b", client_id="a", **files).tls_context()

    assert context(ca_file=authority.ca_file, cert_file=pair.cert_file, key_file=pair.key_file)
    with pytest.raises(SettingsError, match="no such file"):
        context(ca_file=tmp_path / "none.pem")
    with pytest.raises(SettingsError, match=r"ca_file .*can't be used"):
        context(ca_file=pair.key_file)
    with pytest.raises(SettingsError, match="go together"):
        context(cert_file=pair.cert_file)
    with pytest.raises(SettingsError, match="can't be used"):
        context(cert_file=pair.cert_file, key_file=other.key_file)


def test_a_key_with_a_password_is_refused_without_asking_for_it(tmp_path: Path) -> None:
    pair = Authority(tmp_path).client("pi")
    encrypt(pair.key_file)
    with pytest.raises(SettingsError, match="can't be used"):
        LinkSettings(url="mqtts://b", client_id="a", cert_file=pair.cert_file, key_file=pair.key_file).tls_context()


def encrypt(key_file: Path) -> None:
    key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"hush"),
        )
    )
