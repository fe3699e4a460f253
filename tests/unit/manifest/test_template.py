import copy

import pytest

from limpet.manifest.template import (
    CHANGE_CAUSE,
    RESTARTED_AT,
    carry_over,
    change_cause,
    encode_template,
    is_paused,
    paused,
    restarted,
    undone,
)


def deployment(image="a.wasm", *, annotations=None, own=None, **spec):
    template = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"image": image}]}}
    if own is not None:
        template["metadata"]["annotations"] = own
    made = {"kind": "Deployment", "metadata": {"name": "a"}, "spec": {"template": template} | spec}
    if annotations is not None:
        made["metadata"]["annotations"] = annotations
    return made


def pod(image="a.wasm", **metadata):
    spec = {"containers": [{"image": image}]}
    return {"kind": "Pod", "metadata": {"name": "a"} | metadata, "spec": spec}


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        (deployment(replicas=4, paused=True, minReadySeconds=3), True),
        (deployment(annotations={CHANGE_CAUSE: "why", "example.com/x": "y"}), True),
        (deployment(annotations={"limpet.dev/description": "words"}), True),
        (deployment("b.wasm"), False),
        (deployment(annotations={"limpet.dev/workers": "2"}), False),
        (deployment(own={"example.com/x": "y"}), False),
    ],
)
def test_what_makes_a_release(other, is_same):
    assert (encode_template(other) == encode_template(deployment())) is is_same


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        (pod(annotations={"example.com/x": "y"}), True),
        (pod("b.wasm"), False),
        (pod(labels={"a": "b"}), False),
        (pod(annotations={"limpet.dev/engine": "wasmedge"}), False),
        (restarted(pod(), "now"), False),
    ],
)
def test_what_makes_a_release_of_a_pod(other, is_same):
    assert (encode_template(other) == encode_template(pod())) is is_same


def test_a_restart_is_a_release_and_changes_nothing_else():
    before = deployment(own={"x": "y"})
    kept = copy.deepcopy(before)
    after = restarted(before, "now")
    assert before == kept
    assert after["spec"]["template"]["metadata"]["annotations"] == {"x": "y", RESTARTED_AT: "now"}
    assert encode_template(after) != encode_template(before)
    assert restarted(pod(), "now")["metadata"]["annotations"] == {RESTARTED_AT: "now"}


def test_pauses():
    assert is_paused(paused(deployment(), is_paused=True))
    assert "paused" not in paused(deployment(paused=True), is_paused=False)["spec"]
    assert not is_paused(pod())


def test_a_file_that_is_silent_leaves_pause_and_restart():
    stored = restarted(deployment(paused=True, replicas=2), "now")
    assert carry_over(deployment(replicas=2), stored) == stored
    assert carry_over(deployment(paused=False), stored)["spec"]["paused"] is False
    changed = carry_over(deployment("b.wasm"), stored)
    assert changed == deployment("b.wasm", paused=True), "another template starts anew by itself"
    own = deployment(own={RESTARTED_AT: "later"})
    assert carry_over(own, restarted(deployment(), "now")) == own
    assert carry_over(pod(), restarted(pod(), "now")) == restarted(pod(), "now")


def test_undoing_takes_template_annotations_and_cause():
    earlier = deployment("a.wasm", annotations={"limpet.dev/workers": "2", CHANGE_CAUSE: "first"})
    current = deployment(
        "b.wasm",
        annotations={"limpet.dev/engine": "auto", CHANGE_CAUSE: "second", "example.com/x": "y"},
        replicas=3,
    )
    result = undone(current, earlier)
    assert encode_template(result) == encode_template(earlier)
    assert result["spec"]["replicas"] == 3
    assert change_cause(result) == "first"
    assert result["metadata"]["annotations"]["example.com/x"] == "y"
    assert undone(earlier, earlier) == earlier
    assert undone(pod("b.wasm", labels={"a": "b"}), pod("a.wasm")) == pod("a.wasm")
