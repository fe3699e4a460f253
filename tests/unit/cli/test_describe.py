from __future__ import annotations

import json

import pytest

from .fake_node import make_app, make_event, make_exit, make_job, make_object, make_worker


@pytest.fixture
def world(node):
    last = make_exit(reason="Exited", message="panicked at src/main.rs:12", exit_code=1)
    worker = make_worker(
        "camera-0",
        pid=None,
        state="BackOff",
        restarts=7,
        started_at=None,
        retry_seconds=40.0,
        last_exit=last,
    )
    camera = make_app(
        "camera",
        phase="Pending",
        reason="CrashLoopBackOff",
        message="exited with code 1; next try in 40 s",
        ready=0,
        restarts=7,
        endpoints=[],
        usage=None,
        requests=None,
        cold_start_milliseconds=None,
        requires=["cgroup", "encryption"],
        egress=[],
        volumes=[],
        workers=[worker],
    )
    node.add(make_app(), camera, make_job(egress=None))
    node.store(
        make_object("Service", "hello", {"selector": {"app": "hello"}, "ports": [{"port": 80}]}),
        make_object("Secret", "keys", type="Opaque", data={"token": "<32 characters>"}),
        make_object("ConfigMap", "conf", data={"mode": "field"}),
    )
    node.events = [
        make_event(),
        make_event(type="Warning", reason="BackOff", name="camera", message="again", count=7),
        make_event(kind="Node", namespace="", name="rock", reason="Ready", message="up"),
    ]
    return node


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("app", ["hello"]),
        ("crashing", ["deploy/camera"]),
        ("job", ["job", "report"]),
        ("service", ["svc/hello"]),
        ("secret", ["secret", "keys"]),
        ("configmap", ["cm/conf"]),
        ("node", ["node"]),
    ],
)
def test_blocks(world, limpet_, golden, name, words):
    result = limpet_("describe", *words)
    assert result.exit_code == 0, result.stderr
    golden(f"describe-{name}.txt", result.stdout)


def test_what_the_manifests_folder_manages(world, limpet_, golden):
    world.add(make_app(managed_by="shop/app.yaml"))
    assert "Managed by:" in limpet_("describe", "hello").stdout
    world.node["manifests"] = {
        "folder": "/srv/manifests",
        "files": 3,
        "objects": 1,
        "message": "",
        "problems": [{"file": "a.yaml", "message": "a.yaml:3: spec: is missing"}],
    }
    golden("describe-node-manifests.txt", limpet_("describe", "node").stdout)


def test_terminal(world, limpet_, golden, terminal):
    golden("describe-terminal.txt", limpet_("describe", "camera").stdout)


def test_json_of_an_app(world, limpet_):
    answer = json.loads(limpet_("describe", "hello", "-o", "json").stdout)
    assert answer == {"app": make_app(), "events": [make_event()]}


def test_json_of_other_objects(world, limpet_):
    answer = json.loads(limpet_("describe", "svc/hello", "-o", "json").stdout)
    assert answer["object"]["object"]["spec"]["ports"] == [{"port": 80}]
    answer = json.loads(limpet_("describe", "node", "-o", "json").stdout)
    assert answer["node"]["name"] == "rock"
    assert [event["kind"] for event in answer["events"]] == ["Node"]


def test_an_app_named_node_needs_its_kind(world, limpet_):
    world.add(make_app("node"))
    assert "Kind:         Deployment" in limpet_("describe", "app/node").stdout


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["nope"], 3, "app default/nope does not exist"),
        (["svc/nope"], 3, "service default/nope does not exist"),
        (["events/x"], 2, "see `limpet get events`"),
        (["a", "b"], 2, "one object at a time"),
        ([], 2, "Missing argument"),
    ],
)
def test_errors(world, limpet_, words, code, text):
    result = limpet_("describe", *words)
    assert result.exit_code == code
    assert text in result.stderr
