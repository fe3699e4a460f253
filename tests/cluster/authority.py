"""A cluster's certificate authority, and what it signs: certificates and kubeconfigs, as a folder's files."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import json
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_PEM = serialization.Encoding.PEM
_LIFE = dt.timedelta(days=30)
_LATE = dt.timedelta(minutes=5)


class Authority:
    """Signs below `ca.crt`, `ca.key` of its folder, which it makes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("limpet-test-ca", ())
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        built = (
            _begin(self._name, self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
        )
        self._write("ca", self._key, built.sign(self._key, hashes.SHA256()))

    def sign(
        self, stem: str, name: str, groups: Sequence[str] = (), *, hosts: Sequence[str] = ()
    ) -> None:
        """Write `STEM.crt` and `STEM.key`: of a user and groups, and of a server when it has hosts."""
        key = ec.generate_private_key(ec.SECP256R1())
        built = _begin(_name(name, groups), self._name, key)
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if hosts:
            uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
            built = built.add_extension(
                x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False
            )
        built = built.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        self._write(stem, key, built.sign(self._key, hashes.SHA256()))

    def write_kubeconfig(self, stem: str, server: str) -> Path:
        """Write `STEM.kubeconfig` for the user of `STEM.crt`; JSON is YAML."""
        path = self.folder / f"{stem}.kubeconfig"
        certificate, key = self._encoded(f"{stem}.crt"), self._encoded(f"{stem}.key")
        cluster = {"server": server, "certificate-authority-data": self._encoded("ca.crt")}
        user = {"client-certificate-data": certificate, "client-key-data": key}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": stem, "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": stem}}],
        }
        path.write_text(json.dumps(document, indent=1))
        return path

    def write_signing_keys(self, stem: str) -> None:
        """Write `STEM.key` and `STEM.pub`, with which tokens of service accounts are signed."""
        key = ec.generate_private_key(ec.SECP256R1())
        self._write_key(stem, key)
        public = key.public_key().public_bytes(
            _PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (self.folder / f"{stem}.pub").write_bytes(public)

    def _write(
        self, stem: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
    ) -> None:
        self._write_key(stem, key)
        (self.folder / f"{stem}.crt").write_bytes(certificate.public_bytes(_PEM))

    def _write_key(self, stem: str, key: ec.EllipticCurvePrivateKey) -> None:
        path = self.folder / f"{stem}.key"
        path.touch(mode=0o600)
        path.write_bytes(
            key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )

    def _encoded(self, name: str) -> str:
        return base64.b64encode((self.folder / name).read_bytes()).decode()


def _begin(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LATE)
        .not_valid_after(now + _LIFE)
    )


def _name(common: str, groups: Sequence[str]) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
