from __future__ import annotations

import json

import pytest
import yaml

from limpet.cli import get as get_module

from .fake_node import make_app, make_event, make_exit, make_job, make_object, make_worker


@pytest.fixture
def world(node):
    """A node with one of everything."""
    crashing = make_app(
        "camera",
        phase="Pending",
        reason="CrashLoopBackOff",
        message="exited with code 1",
        ready=0,
        restarts=7,
        endpoints=[],
        usage=None,
        requests=None,
        workers=[make_worker("camera-0", state="BackOff", last_exit=make_exit())],
    )
    idle = make_app("sleepy", phase="Idle", ready=0, endpoints=["0.0.0.0:8081", "[::]:8081"])
    node.add(make_app(), crashing, make_job(), idle, make_app("shop", namespace="retail"))
    backend = {"service": {"name": "hello", "port": {"number": 80}}}
    rules = [{"host": "hello.local", "http": {"paths": [{"path": "/", "backend": backend}]}}]
    node.store(
        make_object("Deployment", "hello", {"replicas": 1}),
        make_object(
            "Service",
            "hello",
            {
                "type": "NodePort",
                "selector": {"app": "hello"},
                "ports": [{"port": 80, "nodePort": 30080}, {"port": 443}],
            },
        ),
        make_object("Ingress", "web", {"rules": rules}),
        make_object(
            "NetworkPolicy",
            "cloud",
            {
                "podSelector": {
                    "matchLabels": {"app": "hello"},
                    "matchExpressions": [
                        {"key": "tier", "operator": "In", "values": ["edge", "core"]},
                        {"key": "legacy", "operator": "DoesNotExist"},
                    ],
                },
                "policyTypes": ["Egress"],
                "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
            },
        ),
        make_object("NetworkPolicy", "nothing", {"policyTypes": ["Egress"]}),
        make_object("ConfigMap", "conf", data={"a": "b", "long": "x" * 99}),
        make_object("Secret", "keys", type="Opaque", data={"token": "<32 characters>"}),
        make_object(
            "PersistentVolumeClaim",
            "readings",
            {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "200Mi"}}},
        ),
    )
    node.events = [
        make_event(),
        make_event(type="Warning", reason="BackOff", name="camera", message="again", count=7),
    ]
    return node


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("apps", ["get"]),
        ("apps-wide", ["get", "apps", "-A", "-o", "wide"]),
        ("all", ["get", "all"]),
        ("events", ["get", "events"]),
        ("deploy-and-service", ["get", "deploy,svc"]),
        ("node", ["get", "nodes"]),
    ],
)
def test_tables(world, limpet_, golden, name, arguments):
    result = limpet_(*arguments)
    assert result.exit_code == 0, result.stderr
    golden(f"get-{name}.txt", result.stdout)


def test_terminal_table(world, limpet_, golden, terminal):
    result = limpet_("get", "apps")
    golden("get-apps-terminal.txt", result.stdout)
    assert "\x1b[31mCrashLoopBackOff" in result.stdout


def test_narrow_terminal(world, limpet_, golden, terminal):
    terminal(50)
    golden("get-apps-narrow.txt", limpet_("get", "apps").stdout)


def test_terminal_without_colours(world, limpet_, terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in limpet_("get", "apps").stdout


def test_json_of_apps_is_what_the_node_says(world, limpet_):
    answer = json.loads(limpet_("get", "apps", "-o", "json").stdout)
    assert [app["name"] for app in answer["items"]] == ["camera", "hello", "report", "sleepy"]
    assert answer["items"][1] == make_app()


def test_json_of_one_app_is_one_object(world, limpet_):
    assert json.loads(limpet_("get", "app", "hello", "-o", "json").stdout) == make_app()
    assert json.loads(limpet_("get", "app/hello", "-o", "json").stdout) == make_app()


def test_yaml_of_an_object_is_its_manifest(world, limpet_):
    stored = world.objects["Deployment", "default", "hello"]["object"]
    assert yaml.safe_load(limpet_("get", "deploy/hello", "-o", "yaml").stdout) == stored
    answer = json.loads(limpet_("get", "deploy", "-o", "json").stdout)
    assert answer == {"apiVersion": "v1", "kind": "List", "items": [stored]}


def test_json_of_several_kinds(world, limpet_):
    answer = json.loads(limpet_("get", "svc/hello", "pvc/readings", "-o", "json").stdout)
    assert [item["kind"] for item in answer["items"]] == ["Service", "PersistentVolumeClaim"]
    answer = json.loads(limpet_("get", "all", "-o", "json").stdout)
    assert len(answer["items"]) == 8


@pytest.mark.parametrize("words", [["events"], ["events", "camera"], ["nodes"]])
def test_json_always_parses(world, limpet_, words):
    assert json.loads(limpet_("get", *words, "-o", "json").stdout)["items"]


def test_json_of_nothing(node, limpet_):
    assert json.loads(limpet_("get", "svc", "-o", "json").stdout) == {"items": []}


def test_names(world, limpet_):
    assert limpet_("get", "all", "-o", "name").stdout.splitlines()[:3] == [
        "deployment/camera",
        "deployment/hello",
        "job/report",
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "No apps in namespace default.\n"),
        (["svc,cm"], "No services or configmaps in namespace default.\n"),
        (["pods", "-A"], "No pods.\n"),
        (["all", "-n", "shop"], "No objects in namespace shop.\n"),
    ],
)
def test_nothing_is_said_on_stderr(node, limpet_, words, text):
    result = limpet_("get", *words)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", text)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["app", "nope"], 3, "app default/nope does not exist"),
        (["svc", "nope"], 3, "service default/nope does not exist; see `limpet get services`"),
        (["deploy", "report"], 3, "deployment default/report does not exist; there is job/report"),
        (["node", "other"], 3, "node other does not exist; this one is rock"),
        (["hello"], 2, "hello is no kind of object"),
        (["all", "hello"], 2, "all and a name don't go together"),
        (["svc,pod", "hello"], 2, "svc,pod and a name don't go together"),
    ],
)
def test_errors(world, limpet_, words, code, text):
    result = limpet_("get", *words)
    assert result.exit_code == code
    assert text in result.stderr
    assert result.stdout == ""


def test_names_cannot_drive_the_terminal(node, limpet_, terminal):
    node.add(make_app("evil\x1b]0;pwned\x07\x1b[2J", message="\x9b31m"))
    for arguments in (["get"], ["get", "-o", "json"], ["get", "-o", "name"], ["describe", "x"]):
        text = limpet_(*arguments).output
        assert "pwned\x07" not in text
        assert "\x1b[2J" not in text
        assert "\x9b" not in text


@pytest.fixture
def rounds(monkeypatch):
    """Run `changes` one after the other instead of pausing, then stop watching."""

    def schedule(*changes):
        left = iter(changes)

        def pause(seconds):
            change = next(left, None)
            if change is None:
                raise KeyboardInterrupt
            change()

        monkeypatch.setattr("limpet.cli.watch.time.sleep", pause)

    return schedule


def test_watch_in_a_pipe_appends_what_changes(node, limpet_, rounds):
    node.add(make_app(), make_app("other"))
    rounds(
        lambda: None,
        lambda: node.add(make_app(phase="Pending", reason="BackOff", ready=0)),
        lambda: node.add(make_app("third")),
    )
    result = limpet_("get", "apps", "--watch")
    assert result.exit_code == 130
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "hello", "other", "hello", "third"]
    assert "BackOff" in lines[3]


def test_watch_in_a_terminal_redraws(node, limpet_, rounds, terminal):
    node.add(make_app())
    rounds(lambda: node.add(make_app("second")))
    result = limpet_("get", "apps", "--watch")
    assert result.exit_code == 130
    assert "second" in result.stdout
    assert "\x1b[1A" in result.stdout


def test_watch_json_is_one_object_a_line(node, limpet_, monkeypatch):
    node.add(make_app())
    stops = iter([lambda: node.add(make_app(restarts=1))])

    def pause(seconds):
        change = next(stops, None)
        if change is None:
            raise KeyboardInterrupt
        change()

    monkeypatch.setattr(get_module.time, "sleep", pause)
    lines = limpet_("get", "apps", "-w", "-o", "json").stdout.splitlines()
    assert [json.loads(line)["restarts"] for line in lines] == [0, 1]


def test_watch_refuses_yaml(node, limpet_):
    result = limpet_("get", "-w", "-o", "yaml")
    assert result.exit_code == 2
    assert "--watch goes with table, wide and json" in result.stderr
