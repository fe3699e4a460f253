"""Bundles between real nodes: made on one, applied on another that has no network at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from guests import build_guest
from running_node import SOURCES, RunningNode, wait_for
from workloads import http_app

from limpet.bundle import layout
from limpet.bundle.reading import BundleFile

if TYPE_CHECKING:
    from collections.abc import Callable

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the openssl command"
)


class OfflineNode(RunningNode):
    """A node in a network namespace of its own, where there is loopback and nothing else."""

    def command(self) -> list[str]:
        enter = 'ip link set lo up && exec "$@"'
        return ["unshare", "--net", "sh", "-c", enter, "sh", *super().command()]

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        assert self.process is not None
        enter = ["nsenter", f"--net=/proc/{self.process.pid}/ns/net"]
        return subprocess.run(
            [*enter, *command], capture_output=True, text=True, timeout=20, check=False
        )

    def fetch(self, name: str) -> str:
        """Ask an app from within the namespace."""
        url = f"http://127.0.0.1:{self.port(name)}/"
        program = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=10).status)"
        return self.inside(sys.executable, "-c", program).stdout.strip()


def limpet(
    *words: object, node: RunningNode | None = None, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run the command line; without a node it finds none."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(SOURCES),
        "LIMPET_SOCKET": str(node.socket_path if node else "/nonexistent/socket"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "limpet", *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def make_manifests(folder: Path, *names: str) -> Path:
    """A folder of manifests, an app each, beside their module."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(build_guest("echo"), folder / "echo.wasm")
    for name in names or ("hello",):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(http_app(name, "echo")))
    return folder


def make_key(folder: Path, name: str = "site") -> tuple[Path, Path]:
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    for command in (
        ["genpkey", "-algorithm", "ed25519", "-out", str(private)],
        ["pkey", "-in", str(private), "-pubout", "-out", str(public)],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return private, public


def artifacts(node: RunningNode) -> dict[str, int]:
    """Compiled code by name, with its inode: what was compiled again has another one."""
    return {path.name: path.stat().st_ino for path in (node.data / "artifacts").glob("*.cwasm")}


@pytest.mark.skipif(
    os.geteuid() != 0 or any(shutil.which(each) is None for each in ("unshare", "nsenter", "ip")),
    reason="needs root, unshare, nsenter and ip to make a network namespace",
)
@needs_openssl
def test_a_node_without_a_network_serves_what_a_bundle_brought(
    make_node: Callable[..., RunningNode], tmp_path: Path
) -> None:
    private, public = make_key(tmp_path)
    first = make_node("first")
    first.start()
    bundle = tmp_path / "site.bundle"
    manifests = make_manifests(tmp_path / "shop", "hello", "world")
    limpet("bundle", "create", "-f", manifests, "-o", bundle, "--sign", private, "--compiled",
           node=first)  # fmt: skip
    [code] = artifacts(first)
    first.stop()

    directory = tmp_path / "second"
    directory.mkdir()
    second = OfflineNode(directory, {"LIMPET_BUNDLES_KEYS": str(public)})
    try:
        second.start()
        assert "default" not in second.inside("ip", "route").stdout
        done = limpet("bundle", "apply", bundle, "--require-signature", "--no-wait", node=second)
        assert done.stdout == "deployment/hello created\ndeployment/world created\n"
        brought = artifacts(second)
        assert list(brought) == [code]
        for name in ("hello", "world"):
            second.wait_ready(name)
            assert second.fetch(name) == "200"
        assert artifacts(second) == brought, "what was brought was not compiled again"
        second.restart()
        wait_for(lambda: second.fetch("hello") == "200", "the app after a restart")
        again = limpet("bundle", "apply", bundle, "--no-wait", node=second)
        assert again.stdout == "deployment/hello unchanged\ndeployment/world unchanged\n"
        second.stop()
    finally:
        second.kill()


def test_a_module_from_elsewhere_is_taken_from_the_node_that_has_it(
    make_node: Callable[..., RunningNode], tmp_path: Path
) -> None:
    # As after a download: the node has the module of a source that nobody can reach any more.
    module = build_guest("echo").read_bytes()
    image = f"https://gone.invalid/echo.wasm#sha256={hashlib.sha256(module).hexdigest()}"
    first = make_node("first")
    first.start()
    first.upload(module)
    manifest = tmp_path / "app.yaml"
    manifest.write_text(yaml.safe_dump(http_app("far", image)))
    bundle = tmp_path / "far.bundle"
    limpet("bundle", "create", "-f", manifest, "-o", bundle, node=first)
    second = make_node("second")
    second.start()
    limpet("bundle", "apply", bundle, "--no-wait", node=second)
    second.wait_ready("far")
    assert second.request("far").status == 200
    first.stop()
    second.stop()
    said = limpet("bundle", "create", "-f", manifest, "-o", tmp_path / "x", code=7).stderr
    assert "gone.invalid" in said


def test_nothing_changes_when_something_is_wrong(fresh_node: RunningNode, tmp_path: Path) -> None:
    fresh_node.apply(http_app("before", "echo"))
    bundle = tmp_path / "site.bundle"
    limpet("bundle", "create", "-f", make_manifests(tmp_path / "shop"), "-o", bundle)
    whole = bundle.read_bytes()
    module = layout.digest_of(build_guest("echo").read_bytes())
    at = whole.index(f"blobs/sha256/{module[7:]}".encode()) + 600
    bad = tmp_path / "bad.bundle"
    for content, why in (
        (whole[: len(whole) // 2], "cut short"),
        (whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], "is damaged: its digest is"),
        (whole.replace(b"oci-layout", b"/etc/passw", 1), "checksum is wrong"),
        (b"", "cut short"),
        (b"PK\3\4" + b"x" * 2000, "not a bundle"),
    ):
        bad.write_bytes(content)
        said = limpet("bundle", "apply", bad, node=fresh_node, code=2).stderr
        assert said.startswith(f"error: {bad}: ")
        assert why in said
        assert said == limpet("bundle", "inspect", bad, code=2).stderr
    dry = limpet("bundle", "apply", bundle, "--dry-run", node=fresh_node)
    assert dry.stdout == "deployment/hello created (dry run)\n"
    assert [item["name"] for item in fresh_node.client.objects()] == ["before"]


def test_a_conflict_applies_nothing_of_it(fresh_node: RunningNode, tmp_path: Path) -> None:
    fresh_node.apply({**http_app("hello", "echo")["spec"]["template"], "apiVersion": "v1",
                      "kind": "Pod", "metadata": {"name": "hello"}})  # fmt: skip
    bundle = tmp_path / "site.bundle"
    manifests = make_manifests(tmp_path / "shop", "another", "hello")
    limpet("bundle", "create", "-f", manifests, "-o", bundle)
    said = limpet("bundle", "apply", bundle, node=fresh_node, code=4).stderr
    assert "has the name of an existing Pod" in said
    assert [item["name"] for item in fresh_node.client.objects()] == ["hello"]


@needs_openssl
def test_whose_signature_counts(make_node: Callable[..., RunningNode], tmp_path: Path) -> None:
    mine, public = make_key(tmp_path)
    other, _ = make_key(tmp_path, "other")
    node = make_node(LIMPET_BUNDLES_KEYS=str(public))
    node.start()
    manifests = make_manifests(tmp_path / "shop")
    made = {}
    for name, sign in (("mine", ["--sign", mine]), ("other", ["--sign", other]), ("none", [])):
        made[name] = tmp_path / f"{name}.bundle"
        limpet("bundle", "create", "-f", manifests, "-o", made[name], "--compiled", *sign,
               node=node)  # fmt: skip
    shutil.rmtree(node.data / "artifacts")
    node.restart()
    for name, why in (("other", "is signed by nobody the node trusts"), ("none", "is not signed")):
        demand = ("bundle", "apply", made[name], "--require-signature", "--no-wait")
        assert why in limpet(*demand, node=node, code=5).stderr
        assert node.client.objects() == []
        said = limpet("bundle", "apply", made[name], "--dry-run", node=node).stderr
        assert "its compiled code is left out" in said
    strict = make_node("strict", LIMPET_BUNDLES_KEYS=str(public),
                       LIMPET_BUNDLES_REQUIRE_SIGNATURE="true")  # fmt: skip
    strict.start()
    for name in ("other", "none"):
        said = limpet("bundle", "apply", made[name], "--no-wait", node=strict, code=5).stderr
        assert "bundles.require_signature" in said
        assert strict.client.objects() == []
    limpet("bundle", "apply", made["mine"], "--no-wait", node=strict)
    strict.wait_ready("hello")
    strict.stop()
    # Compiled code that no trusted signature stands for is not taken, whoever sends it.
    with BundleFile(made["other"]) as opened:
        found = opened.verify()
        [blob] = found.contents.compiled
        told = node.client.judge_bundle(
            index=found.index, manifest=found.manifest, signature=found.signature
        )
        assert told == {"signed_by": None, "wanted": []}
        with pytest.raises(Exception, match="no bundle with a trusted signature"):
            node.client.upload_compiled(blob.digest, opened.open_blob(blob), size_bytes=blob.size)
    assert artifacts(node) == {}
    with BundleFile(made["mine"]) as opened:
        found = opened.verify()
        [blob] = found.contents.compiled
        told = node.client.judge_bundle(
            index=found.index, manifest=found.manifest, signature=found.signature
        )
        assert told["wanted"] == [blob.digest]
        with pytest.raises(
            Exception, match="the bytes are sha256:"
        ):  # other bytes than vouched for
            node.client.upload_compiled(blob.digest, _Zeros(), size_bytes=blob.size)
    assert artifacts(node) == {}
    limpet("bundle", "apply", made["mine"], "--require-signature", node=node)
    assert node.request("hello").status == 200
    shown = limpet("bundle", "inspect", made["mine"], "--key", public, "-o", "json")
    assert json.loads(shown.stdout)["signed_by"] is not None
    node.stop()


class _Zeros:
    def read(self, size: int) -> bytes:
        return b"\0" * size


@needs_openssl
def test_compiled_code_for_another_processor_is_compiled_here(
    make_node: Callable[..., RunningNode], tmp_path: Path
) -> None:
    private, public = make_key(tmp_path)
    node = make_node(LIMPET_BUNDLES_KEYS=str(public))
    node.start()
    from limpet.bundle.layout import COMPILED_INFO, COMPILED_NAME, COMPILED_TYPE, ObjectEntry
    from limpet.bundle.writing import Plan, describe_file, write_bundle
    from limpet.cli.bundle import _load_signer

    module = describe_file(build_guest("echo"), layout.MODULE_TYPE, title="echo.wasm")
    (tmp_path / "code").write_bytes(b"\x7fELF nonsense")
    info = layout.encode_json({"imports": [], "exports": [], "memory_bytes": 1}).decode()
    name = f"{module.blob.digest[7:]}-wasmtime-50.0.1-another-processor.cwasm"
    code = describe_file(tmp_path / "code", COMPILED_TYPE, **{COMPILED_NAME: name,
                                                              COMPILED_INFO: info})  # fmt: skip
    entry = ObjectEntry(object=http_app("hello", "echo"), digest=module.blob.digest)
    bundle = tmp_path / "site.bundle"
    write_bundle(
        bundle,
        Plan(objects=[entry], modules=[module], compiled=[code]),
        sign=_load_signer(private, None),
    )
    limpet("bundle", "apply", bundle, "--require-signature", node=node)
    assert node.request("hello").status == 200
    assert name not in artifacts(node)
    node.stop()


def test_an_interrupted_apply_is_run_again(fresh_node: RunningNode, tmp_path: Path) -> None:
    manifests = make_manifests(tmp_path / "shop", "one", "two")
    bundle = tmp_path / "site.bundle"
    limpet("bundle", "create", "-f", manifests, "-o", bundle)
    # The node goes away between the modules and the objects, as when somebody trips over a cable.
    with BundleFile(bundle) as opened:
        found = opened.verify()
        [blob] = {each.digest: each for each in found.contents.modules}.values()
        fresh_node.client.upload_module(blob.digest, opened.open_blob(blob), size_bytes=blob.size)
    fresh_node.kill()
    fresh_node.start()
    assert fresh_node.client.objects() == []
    limpet("bundle", "apply", bundle, node=fresh_node)
    for name in ("one", "two"):
        assert fresh_node.request(name).status == 200


def test_a_command_killed_while_it_uploads_leaves_nothing_half_done(
    fresh_node: RunningNode, tmp_path: Path
) -> None:
    manifests = make_manifests(tmp_path / "shop")
    bundle = tmp_path / "site.bundle"
    limpet("bundle", "create", "-f", manifests, "-o", bundle)
    agent = fresh_node.pid("agent")
    os.kill(agent, signal.SIGSTOP)  # so that the command waits for its first answer
    command = [sys.executable, "-m", "limpet", "bundle", "apply", str(bundle)]
    environment = {**os.environ, "PYTHONPATH": str(SOURCES),
                   "LIMPET_SOCKET": str(fresh_node.socket_path)}  # fmt: skip
    killed = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: _is_connected(killed.pid), "the command to be connected")
    finally:
        killed.kill()
        killed.wait()
        os.kill(agent, signal.SIGCONT)
    assert fresh_node.client.objects() == []
    limpet("bundle", "apply", bundle, node=fresh_node)
    assert fresh_node.request("hello").status == 200


def _is_connected(pid: int) -> bool:
    try:
        return any("socket:" in os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def test_a_large_bundle_is_not_read_into_memory(fresh_node: RunningNode, tmp_path: Path) -> None:
    # Most of it is a wheel, which nobody has to send: what is measured is reading and verifying.
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    size = 200 << 20
    with (wheels / "big-1-py3-none-any.whl").open("wb") as file:
        file.truncate(size)
    bundle = tmp_path / "big.bundle"
    manifests = make_manifests(tmp_path / "shop")
    create = ("bundle", "create", "-f", manifests, "-o", bundle, "--wheels", wheels)
    for words in (create, ("bundle", "apply", bundle, "--dry-run")):
        program = (
            "import sys\n"
            "from limpet.cli.main import limpet\n"
            "try:\n    limpet.main(sys.argv[1:])\n"
            "finally:\n"
            "    status = open('/proc/self/status').read()\n"  # getrusage knows this process's too
            "    print(status.partition('VmHWM:')[2].split()[0], file=sys.stderr)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(SOURCES),
                 "LIMPET_SOCKET": str(fresh_node.socket_path)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert int(done.stderr.split()[-1]) << 10 < 100 << 20, done.stderr
    assert bundle.stat().st_size > size
    bundle.unlink()
