"""What came along with an app is remembered as if it had been pulled."""

import base64
import json
from dataclasses import replace

import pytest

from limpet.errors import InvalidInputError
from limpet.node.brought import Brought, plan_pulls, remember
from limpet.registry.documents import digest_of
from limpet.registry.errors import FormatError
from limpet.registry.evidence import MAX_SIGNATURES, decode_evidence
from limpet.store.database import Database
from limpet.store.pulls import Pull, Pulls

MODULE = "sha256:" + "a" * 64
SOURCE = "oci://registry.example/acme/app:1"
MANIFEST = json.dumps(
    {"layers": [{"mediaType": "application/wasm", "digest": MODULE, "size": 1}]}
).encode()
INDEX = json.dumps(
    {"manifests": [{"mediaType": "x/y", "digest": digest_of(MANIFEST), "size": len(MANIFEST)}]}
).encode()
EVIDENCE = {
    "manifests": [base64.b64encode(each).decode() for each in (INDEX, MANIFEST)],
    "signatures": [[base64.b64encode(b"payload").decode(), base64.b64encode(b"sign").decode()]],
}


def pod(image):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "a", "image": image}]},
    }


@pytest.fixture
def pulls(tmp_path):
    database = Database(tmp_path / "state.db")
    database.open([bytes(32)])
    yield Pulls(database, lambda _: True)
    database.close()


def test_a_module_of_a_registry_is_a_pull_with_its_evidence():
    [pull] = plan_pulls([Brought(pod(SOURCE), MODULE, EVIDENCE)])
    assert (pull.source, pull.module) == (SOURCE, MODULE)
    assert pull.manifest == digest_of(INDEX), "that is what the tag stood for"
    assert decode_evidence(pull.evidence).signatures[0].payload == b"payload"


def test_a_file_and_what_is_no_app_are_none():
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}
    assert plan_pulls([Brought(pod("./a.wasm"), MODULE), Brought(secret, MODULE)]) == []
    with pytest.raises(InvalidInputError, match="in a registry"):
        plan_pulls([Brought(pod("./a.wasm"), MODULE, EVIDENCE)])


@pytest.mark.parametrize(
    "evidence",
    [
        [],
        "text",
        {},
        {"manifests": 1, "signatures": []},
        {"manifests": [1], "signatures": []},
        {"manifests": ["A"], "signatures": []},
        {"manifests": [], "signatures": [["AAAA"]]},
        {"manifests": [], "signatures": [["AAAA", "AAAA"]] * (MAX_SIGNATURES + 1)},
        {"manifests": ["A" * (1 << 20)], "signatures": []},
    ],
)
def test_evidence_that_is_none_is_refused(evidence):
    with pytest.raises(FormatError, match="evidence"):
        plan_pulls([Brought(pod(SOURCE), MODULE, evidence)])


def test_evidence_of_another_module_is_refused():
    with pytest.raises(FormatError, match="does not name the module"):
        plan_pulls([Brought(pod(SOURCE), "sha256:" + "b" * 64, EVIDENCE)])


@pytest.mark.parametrize("is_pinned", [False, True])
def test_a_container_images_evidence_says_nothing_of_a_module(is_pinned):
    kind = "application/vnd.oci.image.layer.v1.tar+gzip"
    layer = {"mediaType": kind, "digest": "sha256:" + "c" * 64, "size": 1}
    manifest = json.dumps({"layers": [layer]}).encode()
    evidence = EVIDENCE | {"manifests": [base64.b64encode(manifest).decode()]}
    version = f"@{digest_of(manifest)}" if is_pinned else ":1"
    brought = Brought(pod(f"oci://registry.example/acme/app{version}"), MODULE, evidence)
    with pytest.raises(FormatError, match="limpet push"):
        plan_pulls([brought])


def test_a_pinned_image_is_only_what_is_shown_to_be_it():
    pinned = f"oci://registry.example/acme/app@{digest_of(INDEX)}"
    [pull] = plan_pulls([Brought(pod(pinned), MODULE, EVIDENCE)])
    assert pull.source == pinned
    assert plan_pulls([Brought(pod(pinned), MODULE)]) == [], "other apps have to ask for it"
    other = f"oci://registry.example/acme/app@{MODULE}"
    with pytest.raises(InvalidInputError, match="is wanted"):
        plan_pulls([Brought(pod(other), MODULE, EVIDENCE)])


def test_better_evidence_replaces_worse_and_never_the_other_way_round(pulls):
    assert remember(pulls, []) is None
    for evidence in (None, EVIDENCE, None):
        write = remember(pulls, [Brought(pod(SOURCE), MODULE, evidence)])
        assert write is not None
        write()
    kept = pulls.latest(SOURCE)
    assert json.loads(kept.evidence) == EVIDENCE
    assert kept.manifest == digest_of(INDEX)


def bring(pulls, evidence, source=SOURCE):
    write = remember(pulls, [Brought(pod(source), MODULE, evidence)])
    assert write is not None
    write()
    return pulls.of_module(source, MODULE)


def signed_by(*names, manifests=EVIDENCE["manifests"]):
    signatures = [[base64.b64encode(name).decode()] * 2 for name in names]
    return {"manifests": list(manifests), "signatures": signatures}


def payloads(pull):
    return [each.payload for each in decode_evidence(pull.evidence).signatures]


def test_a_bundle_adds_signatures_and_takes_none_away(pulls):
    assert payloads(bring(pulls, signed_by(b"a"))) == [b"a"]
    assert payloads(bring(pulls, signed_by())) == [b"a"], "as a mirror without them has it"
    assert payloads(bring(pulls, signed_by(b"b"))) == [b"a", b"b"]
    junk = [b"%d" % number for number in range(MAX_SIGNATURES)]
    assert payloads(bring(pulls, signed_by(*junk))) == [b"a", b"b", *junk[:-2]]


def test_a_bundle_does_not_say_by_which_manifest_a_known_module_came(pulls):
    own = Pull(source=SOURCE, module=MODULE, manifest=digest_of(INDEX), extracted_from="x")
    pulls.write(own)
    other = signed_by(b"a", manifests=EVIDENCE["manifests"][1:])
    for evidence in (None, other, signed_by(b"a", manifests=())):
        kept = bring(pulls, evidence)
        assert replace(kept, pulled_at=0.0) == own
    assert payloads(bring(pulls, EVIDENCE)) == [b"payload"]
    assert bring(pulls, other).extracted_from == "x"


def test_what_was_brought_last_is_what_the_source_is_now(pulls):
    other = "sha256:" + "b" * 64
    for module in (MODULE, other, MODULE):
        write = remember(pulls, [Brought(pod(SOURCE), module)])
        assert write is not None
        write()
        assert pulls.latest(SOURCE).module == module
