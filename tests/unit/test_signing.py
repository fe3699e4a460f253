"""Keys as cosign and openssl write them. The files in `signing_keys` come from cosign's own library
(go-securesystemslib 0.9, `encrypted.Encrypt`, passphrase "limpet") and protect nothing.
"""

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from limpet.node.operator_files import MAX_KEYS_BYTES
from limpet.secretbox import SecretboxError, open_secretbox
from limpet.signing import MAX_KEY_BYTES, InvalidKeyError, load_private_key, load_public_keys

KEYS = Path(__file__).with_name("signing_keys")
PAYLOAD = b'{"critical":{}}'


def read(name):
    return (KEYS / name).read_text()


def pem(key, passphrase=None):
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()


def public_pem(key):
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def on_sm2(text):
    """The same key as one on a curve that cryptography does not know: SM2 (GB/T 32918) for P-256."""
    label = text.split("-----")[1].removeprefix("BEGIN ")
    der = base64.b64decode("".join(text.split("\n")[1:-2]))
    der = der.replace(bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a811ccf5501822d"))
    return f"-----BEGIN {label}-----\n{base64.b64encode(der).decode()}\n-----END {label}-----\n"


def test_what_the_node_reads_of_a_key_file_is_looked_at():
    assert MAX_KEYS_BYTES == MAX_KEY_BYTES


@pytest.mark.parametrize("name", ["cosign", "cosign-ed25519"])
def test_cosigns_own_keys_sign_and_verify(name):
    private = load_private_key(read(f"{name}.key"), "limpet")
    (public,) = load_public_keys([read(f"{name}.pub")])
    signature = private.sign(PAYLOAD)
    assert private.public_key() == public
    assert public.verify(PAYLOAD, signature)
    assert not public.verify(PAYLOAD + b" ", signature)


@pytest.mark.parametrize("passphrase", [None, "geheim"])
@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()]
)
def test_openssls_keys_sign_and_verify(key, passphrase):
    text = pem(key, passphrase.encode() if passphrase else None)
    private = load_private_key(text, passphrase)
    (public,) = load_public_keys([private.public_pem()])
    assert public.verify(PAYLOAD, private.sign(PAYLOAD))


def test_a_passphrase_that_a_plain_key_does_not_need_is_ignored():
    key = ec.generate_private_key(ec.SECP256R1())
    assert load_private_key(pem(key), "unneeded").sign(b"")


def test_one_file_may_hold_several_keys_and_each_counts_once():
    texts = [read("cosign.pub") + read("cosign-ed25519.pub"), read("cosign.pub")]
    assert len(load_public_keys(texts)) == 2


def test_another_keys_signature_does_not_verify():
    (public,) = load_public_keys([read("cosign.pub")])
    for name in ("cosign", "cosign-ed25519"):
        signature = load_private_key(read(f"{name}.key"), "limpet").sign(PAYLOAD)
        assert public.verify(PAYLOAD, signature) is (name == "cosign")


@given(st.binary(max_size=100))
def test_no_bytes_by_chance_are_a_signature(signature):
    for name in ("cosign.pub", "cosign-ed25519.pub"):
        (public,) = load_public_keys([read(name)])
        assert not public.verify(PAYLOAD, signature)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no key is there"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "can't be read"),
        (read("cosign.key"), "is no public key"),
        (public_pem(ec.generate_private_key(ec.SECP384R1()).public_key()), "P-256"),
        (public_pem(rsa.generate_private_key(65537, 1024).public_key()), "P-256"),
        (on_sm2(public_pem(ec.generate_private_key(ec.SECP256R1()).public_key())), "P-256"),
        (read("cosign.pub") + "\n" * MAX_KEY_BYTES, "over 64 KiB"),
    ],
)
def test_what_is_no_public_key_of_use_is_refused(text, message):
    with pytest.raises(InvalidKeyError, match=message):
        load_public_keys([text])


def cosign_key(**changes):
    document = json.loads(base64.b64decode("".join(read("cosign.key").split("\n")[1:-2])))
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = document
        for parent in parents:
            target = target[parent]
        target[last] = value
    body = base64.b64encode(json.dumps(document).encode()).decode()
    label = "ENCRYPTED COSIGN PRIVATE KEY"
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"


def test_the_older_label_is_cosigns_too():
    assert (
        load_private_key(cosign_key(), "limpet").public_key()
        == (load_public_keys([read("cosign.pub")])[0])
    )


@pytest.mark.parametrize(
    ("text", "passphrase", "message"),
    [
        ("", None, "no key is there"),
        (read("cosign.key"), None, "give its passphrase"),
        (read("cosign.key"), "wrong", "another one"),
        (cosign_key(kdf__params__N=1 << 40), "limpet", "more work"),
        (cosign_key(kdf__params__N=3), "limpet", "scrypt parameters"),
        (cosign_key(kdf__params__p=10_000), "limpet", "more work"),
        (cosign_key(kdf__name="argon2"), "limpet", "otherwise than"),
        (cosign_key(cipher={}), "limpet", "damaged"),
        (cosign_key(cipher__nonce="AAAA"), "limpet", "another one"),
        (cosign_key(ciphertext="*"), "limpet", "damaged"),
        (pem(ec.generate_private_key(ec.SECP256R1()), b"x"), None, "give its passphrase"),
        (pem(ec.generate_private_key(ec.SECP256R1()), b"x"), "y", "another one"),
        (pem(ec.generate_private_key(ec.SECP384R1())), None, "P-256"),
        (on_sm2(pem(ec.generate_private_key(ec.SECP256R1()))), None, "P-256"),
        (read("cosign.key") + "\n" * MAX_KEY_BYTES, "limpet", "over 64 KiB"),
    ],
)
def test_what_is_no_private_key_of_use_is_refused(text, passphrase, message):
    with pytest.raises(InvalidKeyError, match=message) as caught:
        load_private_key(text, passphrase)
    assert passphrase is None or passphrase not in str(caught.value).split()


def test_keys_are_not_shown():
    assert "object" not in repr(load_private_key(read("cosign.key"), "limpet"))


def test_a_box_of_nacls_opens_and_a_changed_one_does_not():
    """The vector of NaCl's tests/secretbox.c."""
    key = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
    nonce = bytes.fromhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
    box = bytes.fromhex(
        "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c5"
        "31a1186ac0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8a"
        "b932164548e526ae90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622"
        "a43d14a6599b1f654cb45a74e355a5"
    )
    message = open_secretbox(box, nonce=nonce, key=key)
    assert len(message) == 131
    assert message.startswith(bytes.fromhex("be075fc53c81f2d5cf141316ebeb0c7b"))
    for position in (0, 15, 16, len(box) - 1):
        changed = bytearray(box)
        changed[position] ^= 1
        with pytest.raises(SecretboxError):
            open_secretbox(bytes(changed), nonce=nonce, key=key)
    with pytest.raises(SecretboxError):
        open_secretbox(box[:15], nonce=nonce, key=key)
