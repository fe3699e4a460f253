"""What a bundle brings from a registry is judged by the signature policy, as if it had been pulled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from guests import build_guest
from running_node import wait_for
from test_bundles import limpet
from workloads import http_app

from limpet.bundle.reading import BundleFile
from limpet.errors import InvalidInputError
from limpet.signing import load_private_key
from oci_server import OciServer, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from running_node import RunningNode

    from limpet.signing import PrivateKey

Json = dict[str, Any]


@pytest.fixture
def registry() -> Iterator[OciServer]:
    with OciServer() as running:
        yield running


@pytest.fixture
def start(make_node: Callable[..., RunningNode]) -> Iterator[Callable[..., RunningNode]]:
    started = []

    def run(name: str, **settings: str) -> RunningNode:
        node = make_node(name, LIMPET_NODE_BACKOFF_SECONDS="0.2", **settings)
        node.start()
        started.append(node)
        return node

    yield run
    for node in started:
        if node.process is not None:
            node.stop()


def make_key(path: Path) -> PrivateKey:
    made = ec.generate_private_key(ec.SECP256R1())
    pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    private = load_private_key(pem)
    path.write_text(private.public_pem())
    return private


def module(marker: bytes = b"") -> bytes:
    """The echo guest, different by a section that no engine reads."""
    content = b"\4mark" + marker
    return build_guest("echo").read_bytes() + b"\0" + bytes([len(content)]) + content


def policy(registry: OciServer, public: Path) -> str:
    return f"{registry.host}={public}"


def app(registry: OciServer, version: str = "1", name: str = "app", **fields: Any) -> Json:
    return http_app(name, f"oci://{registry.host}/acme/app:{version}", **fields)


def image_of(item: Json) -> str:
    return str(item["spec"]["template"]["spec"]["containers"][0]["image"])


def bundle_of(node: RunningNode, item: Json, folder: Path) -> tuple[Path, str]:
    """A bundle of one object, and what making it said besides."""
    manifest = folder / "app.yaml"
    manifest.write_text(yaml.safe_dump(item))
    bundle = folder / f"{item['spec']['template']['spec']['containers'][0]['image'][-1]}.bundle"
    said = limpet("bundle", "create", "-f", manifest, "-o", bundle, node=node)
    return bundle, said.stderr


def evidence_of(bundle: Path) -> Json | None:
    with BundleFile(bundle) as opened:
        return opened.verify().objects[0].evidence


@pytest.mark.parametrize("has_policy", [True, False], ids=["the-nodes", "the-registrys"])
def test_signatures_travel_with_the_module(
    start: Callable[..., RunningNode], registry: OciServer, tmp_path: Path, has_policy: bool
) -> None:
    private = make_key(tmp_path / "key.pub")
    rule = policy(registry, tmp_path / "key.pub")
    digest = registry.add_module("acme/app", "1", module())
    registry.add_signature("acme/app", digest, private)
    # A node without a policy has asked for no signatures: `create` asks the registry for them.
    first = start("first", **({"LIMPET_REGISTRY_POLICY": rule} if has_policy else {}))
    first.apply(app(registry))
    first.wait_ready("app")
    if has_policy:
        registry.behaviour.status = 503
    bundle, _ = bundle_of(first, app(registry), tmp_path)
    registry.behaviour.status = 503
    shown = limpet("bundle", "inspect", bundle).stdout
    assert "SIGNATURES" in shown
    second = start("second", LIMPET_REGISTRY_POLICY=rule)
    asked = len(registry.asked)
    limpet("bundle", "apply", bundle, node=second)
    assert second.wait_ready("app")["digest"] == digest_of(module())
    assert second.request("app").status == 200
    # It is here as if it had been pulled, for every app and after a reboot.
    second.apply(
        app(registry, name="present"), app(registry, name="never", imagePullPolicy="Never")
    )
    second.kill()
    second.start()
    for name in ("app", "present", "never"):
        second.wait_ready(name)
    assert len(registry.asked) == asked


def test_without_the_signature_that_the_policy_wants_the_release_before_serves_on(
    start: Callable[..., RunningNode], registry: OciServer, tmp_path: Path
) -> None:
    private, other = make_key(tmp_path / "key.pub"), make_key(tmp_path / "other.pub")
    digest = registry.add_module("acme/app", "1", module())
    registry.add_signature("acme/app", digest, private)
    second = start("second", LIMPET_REGISTRY_POLICY=policy(registry, tmp_path / "key.pub"))
    second.apply(app(registry))
    second.wait_ready("app")
    wait_for(lambda: second.events("app", "ReleaseComplete"), "the first release")
    workers = [worker["pid"] for worker in second.status("app")["workers"]]

    first = start("first")
    registry.add_module("acme/app", "2", module(b"2"))
    foreign = registry.add_module("acme/app", "3", module(b"3"))
    registry.add_signature("acme/app", foreign, other)
    made = {}
    for version, is_asked in (("2", False), ("3", True)):
        first.apply(app(registry, version))
        first.wait_ready("app", generation=int(version) - 1)
        registry.behaviour.status = 0 if is_asked else 503
        made[version], said = bundle_of(first, app(registry, version), tmp_path)
        assert ("its signatures can't be taken along" in said) is not is_asked
        assert (evidence_of(made[version]) is not None) is is_asked
        registry.behaviour.status = 0
    registry.behaviour.status = 503

    for version, why in (("2", "it has none"), ("3", "1 signature by other keys")):
        limpet("bundle", "apply", made[version], "--no-wait", node=second)
        failed = wait_for(
            lambda why=why: [
                event for event in second.events("app", "ReleaseFailed") if why in event["message"]
            ],
            f"the refusal of version {version}",
        )
        assert "SignatureRefused" in failed[0]["message"]
        said = limpet("rollout", "status", "app", node=second, code=1).stderr
        assert "SignatureRefused" in said
        assert why in said
        assert [worker["pid"] for worker in second.status("app")["workers"]] == workers
        assert second.request("app").status == 200


def test_no_module_passes_for_a_file_of_a_signed_container_image(
    start: Callable[..., RunningNode], registry: OciServer, tmp_path: Path
) -> None:
    private = make_key(tmp_path / "key.pub")
    rule = policy(registry, tmp_path / "key.pub")
    signed = registry.add_container("acme/app", "1", module())
    registry.add_signature("acme/app", signed, private)
    first = start("first", LIMPET_REGISTRY_POLICY=rule)
    first.apply(app(registry))
    first.wait_ready("app")
    evidence = first.client.evidence(digest_of(module()), source=image_of(app(registry)))
    assert evidence is not None

    second = start("second", LIMPET_REGISTRY_POLICY=rule)
    evil = second.upload(module(b"evil"))
    pinned = app(registry)
    pinned["spec"]["template"]["spec"]["containers"][0]["image"] = (
        f"oci://{registry.host}/acme/app@{signed}"
    )
    for item in (app(registry), pinned):
        entry: Any = {"object": item, "digest": evil, "evidence": evidence}
        with pytest.raises(InvalidInputError, match="limpet push"):
            second.client.apply([entry])
    # Without evidence, the image is not what a pinned name gives to others, and no policy takes it.
    second.client.apply([{"object": pinned, "digest": evil}])
    assert "it has none" in second.wait_reason("app", "SignatureRefused")["message"]
    second.apply(http_app("other", image_of(pinned), imagePullPolicy="IfNotPresent"))
    assert second.wait_ready("other")["digest"] == digest_of(module())


def test_a_bundle_of_a_container_image_says_that_it_has_no_proof(
    start: Callable[..., RunningNode], registry: OciServer, tmp_path: Path
) -> None:
    private = make_key(tmp_path / "key.pub")
    rule = policy(registry, tmp_path / "key.pub")
    registry.add_signature("acme/app", registry.add_container("acme/app", "1", module()), private)
    first = start("first", LIMPET_REGISTRY_POLICY=rule)
    first.apply(app(registry))
    first.wait_ready("app")
    bundle, said = bundle_of(first, app(registry), tmp_path)
    assert "limpet push" in said
    assert evidence_of(bundle) is None
    second = start("second")
    limpet("bundle", "apply", bundle, node=second)
    assert second.wait_ready("app")["digest"] == digest_of(module())


def test_a_rejected_registry_is_rejected_in_bundles_too(
    start: Callable[..., RunningNode], registry: OciServer, tmp_path: Path
) -> None:
    registry.add_module("acme/app", "1", module())
    first = start("first")
    first.apply(app(registry))
    first.wait_ready("app")
    bundle, _ = bundle_of(first, app(registry), tmp_path)
    second = start("second", LIMPET_REGISTRY_POLICY="*=reject")
    limpet("bundle", "apply", bundle, "--no-wait", node=second)
    assert "*=reject" in second.wait_reason("app", "ImageRejected")["message"]


def test_evidence_that_is_none_changes_nothing(
    start: Callable[..., RunningNode], registry: OciServer
) -> None:
    node = start("node")
    digest = node.upload(module())
    for item, evidence in (
        (app(registry), []),
        (app(registry), {}),
        (app(registry), {"manifests": [1], "signatures": []}),
        (app(registry), {"manifests": ["A" * (1 << 20)], "signatures": []}),
        (app(registry), {"manifests": [], "signatures": [["AAAA", "AAAA"]] * 17}),
        (http_app("app", "echo"), {"manifests": [], "signatures": []}),
    ):
        entry: Any = {"object": item, "digest": digest, "evidence": evidence}
        with pytest.raises(InvalidInputError, match="evidence"):
            node.client.apply([entry])
    assert node.client.objects() == []
