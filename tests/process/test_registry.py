"""Apps from registries: links that are cut, kills, reboots without a network, policies and credentials."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from guests import build_guest
from running_node import RunningNode, name_of, wait_for
from workloads import http_app

from limpet.signing import load_private_key
from oci_server import OciServer, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Json = dict[str, Any]
PASSWORD = "correct-horse-battery"


@pytest.fixture
def registry() -> Iterator[OciServer]:
    with OciServer() as running:
        yield running


@pytest.fixture
def start(make_node: Callable[..., RunningNode]) -> Iterator[Callable[..., RunningNode]]:
    """Start a node that tries again soon, with more settings."""
    started = []

    def run(**settings: str) -> RunningNode:
        node = make_node(LIMPET_NODE_BACKOFF_SECONDS="0.2", **settings)
        node.start()
        started.append(node)
        return node

    yield run
    for node in started:
        if node.process is not None:
            node.stop()


def module(size: int = 0) -> bytes:
    """The echo guest, larger by a section that no engine reads."""
    echo = build_guest("echo").read_bytes()
    if not size:
        return echo
    content = b"\4fill" + random.Random(size).randbytes(size)
    length = bytearray()
    rest = len(content)
    while rest:
        length.append(rest & 0x7F | (0x80 if rest > 0x7F else 0))
        rest >>= 7
    return echo + b"\0" + bytes(length) + content


def image(registry: OciServer, repository: str = "acme/app", version: str = ":1") -> str:
    return f"oci://{registry.host}/{repository}{version}"


def reasons(node: RunningNode, name: str) -> list[str]:
    return [event["reason"] for event in node.events(name)]


def fetchers(node: RunningNode) -> list[int]:
    return [pid for pid in node.pids() if name_of(pid) == "limpet-fetch"]


def test_an_app_is_pulled_and_says_so(
    start: Callable[..., RunningNode], registry: OciServer
) -> None:
    registry.add_module("acme/app", "1", module())
    node = start()
    node.apply(http_app("app", image(registry)))
    status = node.wait_ready("app")
    assert status["digest"] == digest_of(module())
    assert node.request("app").status == 200
    pulling, pulled = (node.events("app", reason)[0] for reason in ("Pulling", "Pulled"))
    assert pulling["message"] == f'Pulling image "{image(registry)}"'
    assert pulled["message"].startswith(f'Successfully pulled image "{image(registry)}" in ')
    assert pulled["message"].endswith(f"Image size: {len(module())} bytes.")
    assert not list((node.data / "downloads").iterdir())


def test_a_download_shows_how_far_it_is(
    start: Callable[..., RunningNode], registry: OciServer
) -> None:
    registry.add_module("acme/app", "1", module(4 << 20))
    registry.behaviour.gate = threading.Event()
    registry.behaviour.gate_at = 3 << 20
    node = start()
    node.apply(http_app("app", image(registry)))
    status = wait_for(
        lambda: " of 4.0 MiB" in (found := node.status("app"))["message"] and found, "progress"
    )
    assert status["reason"] == "PullingModule"
    registry.behaviour.gate.set()
    node.wait_ready("app")


def test_50_mb_over_a_link_that_is_cut_ten_times(
    start: Callable[..., RunningNode], registry: OciServer
) -> None:
    size = 50_000_000
    content = module(size)
    registry.add_module("acme/app", "1", content)
    registry.behaviour.cuts = [4_500_000] * 10
    node = start()
    node.apply(http_app("app", image(registry)))
    node.wait_phase("app", "Running", seconds=60)
    assert registry.cut_count == 10
    print(f"{registry.sent_bytes} bytes sent")
    assert len(content) <= registry.sent_bytes < 55_000_000


def test_a_download_survives_its_process_and_the_node(
    start: Callable[..., RunningNode], registry: OciServer
) -> None:
    content = module(8 << 20)
    registry.add_module("acme/app", "1", content)
    registry.behaviour.gate = threading.Event()
    registry.behaviour.gate_at = 3 << 20
    node = start()
    node.apply(http_app("app", image(registry)))

    def partial_bytes() -> int:
        return max((f.stat().st_size for f in (node.data / "downloads").glob("*.part")), default=0)

    wait_for(lambda: partial_bytes() >= 3 << 20, "the first part")
    registry.behaviour.gate_at = 6 << 20
    [fetcher] = fetchers(node)
    os.kill(fetcher, signal.SIGKILL)
    registry.behaviour.gate.set()
    registry.behaviour.gate = threading.Event()
    wait_for(lambda: partial_bytes() >= 6 << 20, "the second part")
    node.kill()
    registry.behaviour.gate.set()
    registry.behaviour.gate = None
    node.start()
    node.wait_ready("app")
    assert node.status("app")["digest"] == digest_of(content)
    assert registry.sent_bytes < len(content) * 1.1


def test_half_a_download_goes_when_nothing_wants_it_any_more(
    start: Callable[..., RunningNode], registry: OciServer
) -> None:
    registry.add_module("acme/app", "1", module(4 << 20))
    registry.behaviour.gate = threading.Event()
    registry.behaviour.gate_at = 1 << 20
    node = start()
    node.apply(http_app("app", image(registry)))
    downloads = node.data / "downloads"
    wait_for(lambda: any(f.stat().st_size >= 1 << 20 for f in downloads.glob("*.part")), "a part")
    node.apply(http_app("app", "echo"))
    node.wait_ready("app")
    wait_for(lambda: not list(downloads.iterdir()), "the part to go")


def test_a_reboot_without_a_network_needs_no_registry(
    start: Callable[..., RunningNode], registry: OciServer
) -> None:
    registry.add_module("acme/app", "latest", module())
    node = start()
    always = http_app("always", image(registry, version=":latest"), imagePullPolicy="Always")
    node.apply(always, http_app("moving", image(registry, version=":latest")))
    for name in ("always", "moving"):
        node.wait_ready(name)
    registry.behaviour.status = 503
    asked = len(registry.asked)
    node.kill()
    node.start()
    for name in ("always", "moving"):
        node.wait_ready(name)
    assert len(registry.asked) == asked


def test_a_module_that_was_damaged_is_had_again_as_the_release_has_it(
    start: Callable[..., RunningNode], registry: OciServer
) -> None:
    registry.add_module("acme/app", "1", module())
    node = start(LIMPET_NODE_RESYNC_SECONDS="1")
    node.apply(http_app("app", image(registry)))
    digest = node.wait_ready("app")["digest"]
    node.kill()
    registry.add_module("acme/app", "1", module(1000))
    for artifact in (node.data / "artifacts").iterdir():
        artifact.unlink()
    file = node.data / "modules" / f"{digest[7:]}.wasm"
    file.chmod(0o600)
    file.write_bytes(b"damaged")
    node.start()
    node.wait_ready("app")
    assert node.status("app")["digest"] == digest, "not what the tag is now"
    assert "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest() == digest
    [release] = node.client.releases(namespace="default", name="app")
    assert (release["digest"], release["status"]) == (digest, "complete")


def test_pull_policies(start: Callable[..., RunningNode], registry: OciServer) -> None:
    registry.add_module("acme/app", "1", module())
    node = start()
    node.apply(http_app("never", image(registry), imagePullPolicy="Never"))
    assert "imagePullPolicy is Never" in node.wait_reason("never", "ErrImageNeverPull")["message"]
    assert not registry.asked
    node.apply(http_app("first", image(registry)))
    node.wait_ready("first")
    asked = len(registry.asked)
    node.apply(http_app("present", image(registry), imagePullPolicy="IfNotPresent"))
    node.wait_ready("present")
    assert "already present on machine" in node.events("present", "Pulled")[0]["message"]
    assert len(registry.asked) == asked
    node.apply(http_app("asking", image(registry), imagePullPolicy="Always"))
    node.wait_ready("asking")
    assert [path for path in registry.paths()[asked:] if "blobs" in path] == []
    newer = module(1000)
    registry.add_module("acme/app", "1", newer)
    node.apply(http_app("newer", image(registry), imagePullPolicy="Always"))
    assert node.wait_ready("newer")["digest"] == digest_of(newer)
    assert node.status("first")["digest"] == digest_of(module())
    registry.behaviour.status = 503
    node.apply(http_app("offline", image(registry), imagePullPolicy="Always"))
    assert node.wait_ready("offline")["digest"] == digest_of(newer)
    assert "running what is here" in node.events("offline", "PullSkipped")[0]["message"]


def test_an_image_that_does_not_exist_yet(
    start: Callable[..., RunningNode], registry: OciServer
) -> None:
    node = start()
    node.apply(http_app("app", image(registry)))
    status = node.wait_reason("app", "ImageNotFound")
    assert "does not exist" in status["message"]
    registry.add_module("acme/app", "1", module())
    node.wait_ready("app")


def test_an_image_of_another_kind_is_refused_by_name(
    start: Callable[..., RunningNode], registry: OciServer
) -> None:
    registry.add_image(
        "acme/app",
        "1",
        [("application/vnd.oci.image.layer.v1.tar+gzip", b"x")],
        config_type="application/vnd.oci.image.config.v1+json",
        config={"os": "linux", "architecture": "amd64", "config": {"Entrypoint": ["/bin/sh"]}},
    )
    node = start()
    node.apply(http_app("app", image(registry)))
    status = node.wait_reason("app", "UnsupportedImage")
    assert "it starts '/bin/sh' on linux/amd64" in status["message"]
    assert status["is_final"]


# Signatures


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Any, Path]:
    made = ec.generate_private_key(ec.SECP256R1())
    pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    private = load_private_key(pem)
    public = tmp_path / "key.pub"
    public.write_text(private.public_pem())
    return private, public


def test_only_what_is_signed_runs_and_offline_too(
    start: Callable[..., RunningNode], registry: OciServer, keys: tuple[Any, Path]
) -> None:
    private, public = keys
    node = start(LIMPET_REGISTRY_POLICY=f"{registry.host}/acme={public}, *=reject")
    signed = registry.add_module("acme/app", "1", module())
    registry.add_signature("acme/app", signed, private)
    node.apply(http_app("app", image(registry)))
    node.wait_ready("app")
    unsigned = module(1000)
    registry.add_module("acme/app", "2", unsigned)
    node.apply(http_app("app", image(registry, version=":2")))
    wait_for(lambda: "SignatureRefused" in reasons(node, "app"), "the refusal")
    message = node.events("app", "SignatureRefused")[0]["message"]
    assert str(public) in message
    assert private.public_key().fingerprint[:16] in message
    assert "it has none" in message
    wait_for(lambda: node.events("app", "ReleaseFailed"), "the way back")
    told = node.status("app")["rollout"]
    assert (told["status"], told["in_force"]) == ("failed", 1)
    assert told["message"].startswith("SignatureRefused: ")
    assert "it has none" in told["message"]
    assert node.request("app").status == 200, "the previous release serves on"
    node.apply(http_app("app", image(registry, "other/app")))
    wait_for(lambda: len(node.events("app", "ReleaseFailed")) == 2, "the way back from the next")
    told = node.status("app")["rollout"]
    assert (told["status"], told["in_force"]) == ("failed", 1)
    assert told["message"].startswith("ImageRejected: ")
    assert node.request("app").status == 200
    node.apply(http_app("app", image(registry)))
    wait_for(lambda: node.status("app")["reason"] == "", "the signed one")
    node.apply(http_app("rejected", image(registry, "other/app")))
    assert "*=reject" in node.wait_reason("rejected", "ImageRejected")["message"]
    registry.behaviour.status = 503
    asked = len(registry.asked)
    node.kill()
    node.start()
    node.wait_ready("app")
    assert len(registry.asked) == asked


def test_another_keys_signature_and_a_signature_of_something_else_count_for_nothing(
    start: Callable[..., RunningNode], registry: OciServer, keys: tuple[Any, Path]
) -> None:
    _, public = keys
    other = load_private_key(
        ec.generate_private_key(ec.SECP256R1())
        .private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        .decode()
    )
    node = start(LIMPET_REGISTRY_POLICY=f"*={public}")
    digest = registry.add_module("acme/app", "1", module())
    registry.add_signature("acme/app", digest, other)
    node.apply(http_app("other", image(registry)))
    assert "1 signature by other keys" in node.wait_reason("other", "SignatureRefused")["message"]
    registry.add_module("acme/app", "2", module(1000))
    registry.add_signature("acme/app", registry.add_module("acme/x", "1", module()), keys[0])
    node.apply(http_app("moved", image(registry, version=":2")))
    node.wait_reason("moved", "SignatureRefused")


def test_a_key_of_a_kind_that_nobody_knows_here_is_said_to_be_one(
    start: Callable[..., RunningNode], registry: OciServer, keys: tuple[Any, Path]
) -> None:
    private, public = keys
    registry.add_signature("acme/app", registry.add_module("acme/app", "1", module()), private)
    # The same key as one on the curve SM2.
    der = base64.b64decode("".join(public.read_text().split("\n")[1:-2]))
    der = der.replace(bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a811ccf5501822d"))
    text = base64.b64encode(der).decode()
    public.write_text(f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    node = start(LIMPET_REGISTRY_POLICY=f"*={public}")
    node.apply(http_app("app", image(registry)))
    assert "P-256" in node.wait_reason("app", "InvalidKey")["message"]


def test_a_policy_that_comes_later_judges_what_is_here(
    make_node: Callable[..., RunningNode], registry: OciServer, keys: tuple[Any, Path]
) -> None:
    private, public = keys
    digest = registry.add_module("acme/app", "1", module())
    registry.add_module("acme/unsigned", "1", module(10))
    registry.add_signature("acme/app", digest, private)
    node = make_node()
    node.start()
    node.apply(
        http_app("app", image(registry)), http_app("plain", image(registry, "acme/unsigned"))
    )
    node.wait_ready("app")
    node.wait_ready("plain")
    node.stop()
    node._environment["LIMPET_REGISTRY_POLICY"] = f"{registry.host}={public}"
    sent = registry.sent_bytes
    node.start()
    node.wait_ready("app")
    node.wait_reason("plain", "SignatureRefused")
    assert registry.sent_bytes - sent < len(module()), "only signatures were asked for"
    node.stop()


def test_a_file_of_a_signed_container_image_runs_and_offline_too(
    make_node: Callable[..., RunningNode], registry: OciServer, keys: tuple[Any, Path]
) -> None:
    private, public = keys
    digest = registry.add_container("acme/app", "1", module())
    registry.add_signature("acme/app", digest, private)
    node = make_node()
    node.start()
    node.apply(http_app("app", image(registry)))
    node.wait_ready("app")
    node.stop()
    # The node took the file out by itself, and knows that when a policy comes later.
    node._environment["LIMPET_REGISTRY_POLICY"] = f"{registry.host}={public}"
    sent = registry.sent_bytes
    node.start()
    node.wait_ready("app")
    assert registry.sent_bytes - sent < len(module()), "only signatures were asked for"
    registry.behaviour.status = 503
    node.kill()
    node.start()
    node.wait_ready("app")
    node.stop()


def test_signatures_that_a_registry_lost_still_count_here(
    start: Callable[..., RunningNode], registry: OciServer, keys: tuple[Any, Path]
) -> None:
    private, public = keys
    digest = registry.add_module("acme/app", "1", module())
    registry.add_signature("acme/app", digest, private)
    node = start(LIMPET_REGISTRY_POLICY=f"*={public}")
    node.apply(http_app("app", image(registry)))
    node.wait_ready("app")
    registry.remove_manifest("acme/app", f"{digest.replace(':', '-')}.sig")
    node.apply(http_app("again", image(registry), imagePullPolicy="Always"))
    node.wait_ready("again")
    registry.behaviour.status = 503
    node.kill()
    node.start()
    for name in ("app", "again"):
        node.wait_ready(name)


# Credentials


def docker_config(registry: OciServer, password: str = PASSWORD) -> str:
    pair = base64.b64encode(f"user:{password}".encode()).decode()
    return json.dumps({"auths": {registry.host: {"auth": pair}}})


@pytest.mark.parametrize("action", ["pause", "restart", "undo"])
def test_a_module_that_was_lost_is_pulled_again_by_a_rollouts_change(
    start: Callable[..., RunningNode], registry: OciServer, action: str
) -> None:
    registry.add_module("acme/app", "1", module())
    registry.add_module("acme/app", "2", module(10))
    node = start()

    def wait_release(number: int) -> None:
        wait_for(
            lambda: (
                (told := node.status("app")["rollout"])["status"] == "complete"
                and told["in_force"] == number
            ),
            f"release {number}",
        )

    for number in (1, 2):
        node.apply(http_app("app", image(registry, version=f":{number}")))
        wait_release(number)
    for file in (node.data / "modules").iterdir():
        file.unlink()
    node.client.change_rollout(namespace="default", name="app", action=action)
    if action == "pause":
        node.client.change_rollout(namespace="default", name="app", action="resume")
    else:
        wait_release(3)
    wanted = module() if action == "undo" else module(10)
    assert node.status("app")["digest"] == digest_of(wanted)
    assert node.request("app").status == 200


@pytest.mark.parametrize("uses_tokens", [False, True])
def test_credentials_of_a_file_and_of_a_secret_and_no_trace_of_them(
    start: Callable[..., RunningNode], registry: OciServer, tmp_path: Path, uses_tokens: bool
) -> None:
    registry.behaviour.username, registry.behaviour.password = "user", PASSWORD
    registry.behaviour.uses_tokens = uses_tokens
    content = module(2 << 20)
    registry.add_module("acme/app", "1", content)
    credentials = tmp_path / "config.json"
    credentials.write_text(json.dumps({"auths": {}}))
    node = start(LIMPET_REGISTRY_CREDENTIALS_FILE=str(credentials))
    node.apply(http_app("app", image(registry)))
    assert "wants credentials" in node.wait_reason("app", "RegistryUnauthorized")["message"]
    credentials.write_text(docker_config(registry, "wrong-" + PASSWORD))
    wait_for(lambda: "does not accept" in node.status("app")["message"], "the wrong password")
    registry.behaviour.gate, registry.behaviour.gate_at = threading.Event(), 1 << 20
    credentials.write_text(docker_config(registry))
    [pid] = wait_for(lambda: registry.sent_bytes >= 1 << 20 and fetchers(node), "a download")
    for name in ("cmdline", "environ"):
        with open(f"/proc/{pid}/{name}", "rb") as file:
            assert PASSWORD.encode() not in file.read()
    registry.behaviour.gate.set()
    node.wait_ready("app")
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "pull"},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": docker_config(registry)},
    }
    credentials.write_text(json.dumps({"auths": {}}))
    with_secret = http_app("secret", image(registry), imagePullPolicy="Always")
    with_secret["spec"]["template"]["spec"]["imagePullSecrets"] = [{"name": "pull"}]
    node.apply(with_secret)
    wait_for(
        lambda: "FailedToRetrieveImagePullSecret" in reasons(node, "secret"), "the missing Secret"
    )
    node.apply(secret)
    node.wait_ready("secret")
    told = json.dumps([node.events(), node.status("app"), node.status("secret"), node.output()])
    pair = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
    node.stop()
    for trace in (PASSWORD, pair):
        assert trace not in told
        for path in node.data.rglob("*"):
            if path.is_file():
                assert trace.encode() not in path.read_bytes(), path


def test_a_mirror_gets_its_own_credentials_only(
    start: Callable[..., RunningNode], registry: OciServer, tmp_path: Path
) -> None:
    registry.add_module("acme/app", "1", module())
    registry.behaviour.username, registry.behaviour.password = "user", "of the mirror"
    pairs = {"r.example": f"user:{PASSWORD}", registry.host: "user:of the mirror"}
    auths = {
        host: {"auth": base64.b64encode(pair.encode()).decode()} for host, pair in pairs.items()
    }
    credentials = tmp_path / "config.json"
    credentials.write_text(json.dumps({"auths": auths}))
    node = start(
        LIMPET_REGISTRY_CREDENTIALS_FILE=str(credentials),
        LIMPET_REGISTRY_MIRRORS=f"r.example={registry.host}",
    )
    node.apply(http_app("app", "oci://r.example/acme/app:1"))
    node.wait_ready("app")
    of_the_registry = auths["r.example"]["auth"]
    assert not any(of_the_registry in str(each.headers) for each in registry.asked)
