"""`limpet push` and `limpet pull` against a server on loopback: what they say, and how they fail."""

import json
import subprocess
import sys

import pytest

from oci_server import OciServer, digest_of

MODULE = b"\0asm\1\0\0\0"


@pytest.fixture
def limpet(tmp_path):
    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "-P", "-m", "limpet", *arguments],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_pull_writes_the_module_and_says_what_it_is(limpet, tmp_path):
    with OciServer() as server:
        digest = server.add_module("acme/app", "1", MODULE)
        done = limpet("pull", f"{server.host}/acme/app:1", "--json")
    told = json.loads(done.stdout)
    assert told["digest"] == digest
    assert told["module"] == digest_of(MODULE)
    assert told["file"] == "app.wasm"
    assert (tmp_path / "app.wasm").read_bytes() == MODULE
    assert [path.name for path in tmp_path.iterdir()] == ["app.wasm"]


def test_pull_shows_people_what_came_and_of_what(limpet, tmp_path):
    with OciServer() as server:
        digest = server.add_module("acme/app", "1", MODULE)
        done = limpet("pull", f"{server.host}/acme/app:1", "-o", "got.wasm")
    first, second = done.stdout.splitlines()
    assert first.startswith("got.wasm: ")
    assert first.endswith(f", {digest_of(MODULE)}")
    assert second == f"{server.host}/acme/app@{digest}"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("pull", "HOST/acme/none:1"), 3, "does not exist"),
        (("pull", "Not/An Image"), 2, "contains spaces"),
        (("pull", "https://r.example/a.wasm"), 2, "is not an image"),
        (("push", "none.wasm", "HOST/a:1"), 2, "can't read none.wasm"),
        (("push", "page.wasm", "HOST/a:1"), 2, "is not WebAssembly"),
        (("push", "app.wasm", "HOST/a:1", "--annotation", "x"), 2, "is not KEY=VALUE"),
        (("push", "app.wasm", f"HOST/a@sha256:{'0' * 64}"), 2, "push to a tag"),
        (("push", "app.wasm", "HOST/a:1", "--sign", "page.wasm"), 2, "page.wasm: no key is there"),
        (("push", "app.wasm", "HOST/a:1"), 2, "can't start an upload"),
    ],
)
def test_errors_say_what_is_wrong(limpet, tmp_path, arguments, code, words):
    (tmp_path / "page.wasm").write_text("<html>")
    (tmp_path / "app.wasm").write_bytes(MODULE)
    with OciServer() as server:
        done = limpet(*(word.replace("HOST", server.host) for word in arguments))
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_helpers_are_refused_by_name(limpet, tmp_path):
    (tmp_path / "config.json").write_text('{"credsStore": "desktop"}')
    done = limpet("pull", "localhost:1/a:1", DOCKER_CONFIG=str(tmp_path))
    assert done.returncode == 2
    assert "helper program" in done.stderr


def test_the_agent_and_the_verbs_do_not_load_what_only_others_need():
    code = (
        "import sys, limpet.node.agent, limpet.cli.push, limpet.cli.pull;"
        "print([m for m in ('cryptography', 'http.client', 'limpet.registry.client') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
