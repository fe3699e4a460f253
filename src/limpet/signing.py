"""Signatures by key, as cosign makes them: over bytes, with ECDSA on P-256 and SHA-256, or Ed25519.

Public keys are PEM files as `cosign generate-key-pair` and `openssl pkey -pubout` write them. Private keys
are PKCS #8 PEM, or cosign's own format: JSON with scrypt's parameters and a NaCl secretbox
(go-securesystemslib, encrypted/encrypted.go). What is verified here is a key's signature and nothing
else: no certificates, no transparency log.

Importing this loads `cryptography`: the agent never does, whoever else needs it does so late.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
    load_pem_public_key,
)

from limpet.errors import InvalidInputError
from limpet.secretbox import SecretboxError, open_secretbox

if TYPE_CHECKING:
    from collections.abc import Iterable

_PublicKey: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
_PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

# Made here because it imports more, which a process behind walls could not.
_ECDSA = ec.ECDSA(SHA256())
MAX_KEY_BYTES = 64 << 10
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s(.*?)-----END \1-----", re.DOTALL)
_COSIGN_LABELS = frozenset({"ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY"})
_KINDS = "an ECDSA key on P-256 or an Ed25519 key"
# scrypt takes 128 * N * r bytes: cosign's 2^16 * 8 are 64 MiB, and a file that wants more is no key.
_MOST_SCRYPT_BYTES = 128 << 20
_MOST_SCRYPT_P = 16


class InvalidKeyError(InvalidInputError):
    """A key that can't be used. No message shows a part of it."""

    reason = "InvalidKey"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What verifies. `fingerprint` is the SHA-256 of its SubjectPublicKeyInfo in hexadecimal, which
    `openssl pkey -pubin -outform DER | sha256sum` prints too.
    """

    fingerprint: str
    _key: _PublicKey = field(repr=False, compare=False)

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Whether the signature (ECDSA: ASN.1 DER; Ed25519: 64 bytes) is this key's over these bytes."""
        try:
            if isinstance(self._key, ed25519.Ed25519PublicKey):
                self._key.verify(signature, data)
            else:
                self._key.verify(signature, data, _ECDSA)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """What signs."""

    _key: _PrivateKey = field(repr=False)

    def sign(self, data: bytes) -> bytes:
        """Return the signature that `PublicKey.verify` accepts."""
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(data)
        return self._key.sign(data, _ECDSA)

    def public_key(self) -> PublicKey:
        """Return the key that others verify with."""
        return _wrap(self._key.public_key())

    def public_pem(self) -> str:
        """Return that key as a PEM file's text."""
        key = self._key.public_key()
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def load_public_keys(texts: Iterable[str]) -> tuple[PublicKey, ...]:
    """The keys in these PEM texts, in order, each once; a text may hold several.

    Raises `InvalidKeyError` for a text without a key and for a key of another kind.
    """
    found: dict[str, PublicKey] = {}
    for text in texts:
        _check_size(text)
        blocks = list(_PEM.finditer(text))
        if not blocks:
            raise InvalidKeyError(
                "no key is there: a public key begins with -----BEGIN PUBLIC KEY-----"
            )
        for block in blocks:
            if block.group(1) != "PUBLIC KEY":
                raise InvalidKeyError(
                    f"a {block.group(1).lower()} is no public key; give the file that begins with "
                    "-----BEGIN PUBLIC KEY-----"
                )
            key = _load_public_key(block.group(0))
            found[key.fingerprint] = key
    return tuple(found.values())


def load_private_key(text: str, passphrase: str | None = None) -> PrivateKey:
    """The key in a PEM text: PKCS #8 (encrypted or not) or cosign's `cosign.key`.

    Raises `InvalidKeyError` when it is none, is of another kind, or the passphrase is missing or wrong.
    """
    _check_size(text)
    block = _PEM.search(text)
    if block is None:
        raise InvalidKeyError(
            "no key is there: a private key begins with -----BEGIN ... PRIVATE KEY-----"
        )
    secret = passphrase.encode() if passphrase is not None else None
    if block.group(1) in _COSIGN_LABELS:
        if secret is None:
            raise InvalidKeyError("the private key is encrypted; give its passphrase")
        der = _open_cosign_key(block.group(2), secret)
        try:
            return _require_kind(load_der_private_key(der, None))
        except UnsupportedAlgorithm as error:
            raise InvalidKeyError(f"the private key is not {_KINDS}") from error
        except (ValueError, TypeError) as error:
            raise InvalidKeyError("the private key's contents can't be read") from error
    try:
        return _require_kind(load_pem_private_key(block.group(0).encode(), secret))
    except TypeError as error:  # a passphrase is missing, or there is one too many
        if secret is None:
            raise InvalidKeyError("the private key is encrypted; give its passphrase") from error
        return load_private_key(text)
    except UnsupportedAlgorithm as error:
        raise InvalidKeyError(
            f"the private key is not {_KINDS}, or encrypted in another way"
        ) from error
    except ValueError as error:
        cause = "or its passphrase is another one" if secret is not None else "as a PEM key"
        raise InvalidKeyError(f"the private key can't be read, {cause}") from error


def _check_size(text: str) -> None:
    if len(text) > MAX_KEY_BYTES:
        raise InvalidKeyError(f"the file of keys has over {MAX_KEY_BYTES >> 10} KiB")


def _load_public_key(pem: str) -> PublicKey:
    try:
        key = load_pem_public_key(pem.encode())
    except ValueError as error:
        raise InvalidKeyError("the public key can't be read as a PEM key") from error
    except UnsupportedAlgorithm as error:  # a curve, as secp160k1, or another kind
        raise InvalidKeyError(f"the public key is not {_KINDS}") from error
    if isinstance(key, ed25519.Ed25519PublicKey) or (
        isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    ):
        return _wrap(key)
    raise InvalidKeyError(f"the public key is not {_KINDS}")


def _wrap(key: _PublicKey) -> PublicKey:
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(hashlib.sha256(der).hexdigest(), key)


def _require_kind(key: object) -> PrivateKey:
    if isinstance(key, ed25519.Ed25519PrivateKey) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
    ):
        return PrivateKey(key)
    raise InvalidKeyError(f"the private key is not {_KINDS}")


def _open_cosign_key(body: str, passphrase: bytes) -> bytes:
    """Decrypt the key file's JSON: `{"kdf": {scrypt}, "cipher": {nacl/secretbox}, "ciphertext"}`."""
    try:
        document = json.loads(base64.b64decode("".join(body.split()), validate=True))
        kdf, cipher = document["kdf"], document["cipher"]
        if kdf["name"] != "scrypt" or cipher["name"] != "nacl/secretbox":
            raise InvalidKeyError(
                "the private key is encrypted otherwise than by scrypt and secretbox"
            )
        salt, nonce, ciphertext = (
            base64.b64decode(text, validate=True)
            for text in (kdf["salt"], cipher["nonce"], document["ciphertext"])
        )
        n, r, p = (int(kdf["params"][name]) for name in ("N", "r", "p"))
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise InvalidKeyError(
            "the private key's file is damaged: it is not cosign's JSON"
        ) from error
    if not (0 < p <= _MOST_SCRYPT_P and 0 < 128 * n * r <= _MOST_SCRYPT_BYTES and n > 1 and r > 0):
        raise InvalidKeyError("the private key asks for more work than cosign's keys do")
    try:
        key = hashlib.scrypt(
            passphrase, salt=salt, n=n, r=r, p=p, maxmem=2 * _MOST_SCRYPT_BYTES, dklen=32
        )
        return open_secretbox(ciphertext, nonce=nonce, key=key)
    except SecretboxError as error:
        raise InvalidKeyError("the private key's passphrase is another one") from error
    except ValueError as error:
        raise InvalidKeyError("the private key's scrypt parameters are of no use") from error
