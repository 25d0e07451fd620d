"""A throw-away certificate authority for tests that speak TLS."""

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_LIFE = datetime.timedelta(days=2)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM files."""

    cert_file: Path
    key_file: Path


class Authority:
    """Signs certificates for servers on this machine and for devices; its own is `ca_file`."""

    def __init__(self, folder: Path, name: str = "Test authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        self._cert = (
            _builder(subject, subject, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self._cert.public_bytes(serialization.Encoding.PEM))

    def server(
        self,
        *,
        file_name: str = "server",
        hosts: tuple[str, ...] = ("localhost", "127.0.0.1"),
        expired: bool = False,
    ) -> Pair:
        """A certificate for a server at these names and addresses."""
        names = [
            x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host) for host in hosts
        ]
        return self._issue("flotilla test broker", file_name, x509.SubjectAlternativeName(names), expired=expired)

    def client(self, common_name: str) -> Pair:
        """A certificate that says who a client is."""
        return self._issue(common_name, f"client-{common_name}", None)

    def _issue(
        self, common_name: str, file_name: str, names: x509.SubjectAlternativeName | None, *, expired: bool = False
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(_name(common_name), self._cert.subject, key.public_key(), expired=expired)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        cert = builder.sign(self._key, hashes.SHA256())
        pair = Pair(self._folder / f"{file_name}.pem", self._folder / f"{file_name}.key")
        pair.cert_file.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        pair.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair


@dataclass(frozen=True)
class TlsFiles:
    """What production.conf names: files that exist, all in one folder."""

    folder: Path
    authority: Authority
    server: Pair
    acl_file: Path
    password_file: Path

    def options(self, *, mounted_at: Path | None = None) -> dict[str, Any]:
        """Arguments for `render`, as the broker sees the files."""
        folder = mounted_at if mounted_at is not None else self.folder
        return {
            "ca_file": folder / self.authority.ca_file.name,
            "cert_file": folder / self.server.cert_file.name,
            "key_file": folder / self.server.key_file.name,
            "acl_file": folder / self.acl_file.name,
            "password_file": folder / self.password_file.name,
        }

    def probe(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.authority.ca_file)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, expired: bool = False
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LIFE)
        .not_valid_after(now - _LIFE / 2 if expired else now + _LIFE)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )
