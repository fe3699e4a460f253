from __future__ import annotations

import json
import os

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from limpet.bundle.reading import BundleFile

MODULE = b"\0asm\1\0\0\0" + b"x" * 1016
IMAGE = "./hello.wasm"


def deployment(image=IMAGE, name="hello"):
    return json.dumps(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"containers": [{"name": name, "image": image}]},
                },
            },
        }
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A manifest, its module and a key pair that is the same each time; the working directory."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/hello.json").write_text(deployment())
    (tmp_path / "shop/hello.wasm").write_bytes(MODULE)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/limpet-0.1.0-py3-none-any.whl").write_bytes(b"PK")
    write_key(tmp_path / "site.key")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("limpet.bundle.writing.__version__", "1.2.3")
    return tmp_path


def write_key(path, encryption=None):
    key = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    path.write_bytes(pem)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub").write_bytes(public)


@pytest.fixture
def create(node, folder, limpet_):
    def run(*more, code=0):
        result = limpet_("bundle", "create", "-f", "shop", "-o", "site.bundle", *more)
        assert result.exit_code == code, result.stderr
        return result

    return run


def inspect(limpet_, *more):
    result = limpet_("bundle", "inspect", "site.bundle", *more)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_a_plain_bundle(create, limpet_, golden):
    golden("bundle-create.txt", create().stdout)
    golden("bundle-inspect.txt", inspect(limpet_))


def test_one_of_everything(create, limpet_, golden):
    result = create("--compiled", "--wheels", "wheels", "--sign", "site.key")
    golden("bundle-create-full.txt", result.stdout)
    golden("bundle-inspect-full.txt", inspect(limpet_, "--key", "site.pub"))
    golden("bundle-inspect-full.json", inspect(limpet_, "--key", "site.pub", "-o", "json"))
    assert "by a key that was not given (--key FILE)" in inspect(limpet_)


def test_no_node_is_needed_where_modules_are_files(node, create):
    node.stop()
    create()


def test_a_key_with_a_passphrase(create, folder, limpet_):
    write_key(folder / "site.key", BestAvailableEncryption(b"correct horse"))

    def give(passphrase):
        """An open descriptor, which the command closes."""
        (folder / "passphrase").write_text(f"{passphrase}\n")
        return os.open(folder / "passphrase", os.O_RDONLY)

    create("--sign", "site.key", "--passphrase-fd", give("correct horse"))
    assert "by key " in inspect(limpet_, "--key", "site.pub")
    told = create("--sign", "site.key", "--passphrase-fd", give("wrong"), code=2).stderr
    assert "passphrase" in told
    assert "wrong" not in told


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--sign", "absent.key"], 2, "absent.key: can't read it"),
        (["--sign", "site.pub"], 2, "private key"),
        (["--wheels", "shop"], 3, "no .whl file in this folder"),
        (["-o", "nowhere/site.bundle"], 3, "no such folder to write the bundle to"),
    ],
)
def test_create_refuses(create, words, code, text):
    assert text in create(*words, code=code).stderr


def test_an_image_that_neither_a_node_nor_its_registry_has(create, folder):
    (folder / "shop/hello.json").write_text(deployment("localhost:1/app:1"))
    told = create(code=7).stderr
    assert "localhost:1/v2/" in told
    assert "Connection refused" in told
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == [
        "site.key",
        "site.pub",
    ]


def test_an_image_that_the_node_has(create, node, folder, limpet_):
    from limpet.bundle.layout import digest_of

    from .fake_node import make_app

    digest = digest_of(MODULE)
    node.modules[digest] = MODULE
    node.add(make_app(image="oci://ghcr.io/you/app:1", digest=digest))
    (folder / "shop/hello.json").write_text(deployment("ghcr.io/you/app:1"))
    create()
    with BundleFile(folder / "site.bundle") as opened:
        [blob] = opened.verify().contents.modules
    assert (blob.digest, blob.title) == (digest, "ghcr.io/you/app:1")


def apply(limpet_, *more):
    return limpet_("bundle", "apply", "site.bundle", *more)


def test_apply_sends_what_the_node_lacks(create, node, limpet_):
    create()
    result = apply(limpet_)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "deployment/hello created\n"
    assert "deployment/hello running at http://127.0.0.1:8080/" in result.stderr
    assert list(node.modules.values()) == [MODULE]
    node.requests.clear()
    assert apply(limpet_).stdout == "deployment/hello unchanged\n"
    assert node.asked("PUT") == []


def test_dry_run_sends_nothing(create, node, limpet_):
    create()
    result = apply(limpet_, "--dry-run")
    assert result.stdout == "deployment/hello created (dry run)\n"
    assert node.asked("PUT") == []
    assert node.objects == {}


def test_compiled_code_goes_along_with_a_trusted_signature(create, node, limpet_):
    create("--compiled", "--sign", "site.key")
    node.trusted = "ab" * 32
    assert apply(limpet_, "--require-signature").exit_code == 0
    assert list(node.compiled.values()) == [b"machine code"]


def test_without_one_it_does_not(create, node, limpet_):
    create("--compiled", "--sign", "site.key")
    result = apply(limpet_)
    assert result.exit_code == 0
    assert "warning: the bundle is signed by nobody the node trusts: its compiled code is" in (
        result.stderr
    )
    assert node.compiled == {}


@pytest.mark.parametrize(
    ("sign", "text"),
    [((), "is not signed"), (("--sign", "site.key"), "is signed by nobody the node trusts")],
)
def test_a_signature_that_is_required(create, node, limpet_, sign, text):
    create(*sign)
    node.modules.clear()
    result = apply(limpet_, "--require-signature")
    assert result.exit_code == 5
    assert f"the bundle {text}; nothing was changed" in result.stderr
    assert node.modules == node.objects == {}


def test_a_bundle_that_is_none(limpet_, folder):
    (folder / "site.bundle").write_bytes(b"nonsense" * 200)
    for verb in ("inspect", "apply"):
        result = limpet_("bundle", verb, "site.bundle")
        assert result.exit_code == 2
        assert "site.bundle: it is not a bundle, or is damaged" in result.stderr


def test_json(create, limpet_):
    create()
    [item] = json.loads(apply(limpet_, "-o", "json").stdout)["items"]
    assert (item["action"], item["phase"]) == ("created", "Running")
