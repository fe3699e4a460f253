from __future__ import annotations

import json

import pytest

from .fake_node import make_app, make_release, make_rollout

FAILED = {
    "release": 4,
    "in_force": 3,
    "status": "failed",
    "message": "CrashLoopBackOff: its workers ended 3 times in a row",
}
WAITING = [
    {"status": "progressing", "updated": 0, "available": 0, "old": 2},
    {"status": "progressing", "updated": 2, "available": 1, "old": 1},
    {"status": "progressing", "updated": 2, "available": 1, "old": 0},
    {"status": "progressing", "updated": 2, "available": 2, "old": 0},
    {"status": "complete", "updated": 2, "available": 2, "old": 0},
]


@pytest.fixture
def world(node):
    node.add(make_app(rollout=make_rollout()), make_app("job", kind="Job", rollout=None))
    node.releases["hello"] = [
        make_release(2, cause="first try"),
        make_release(3, is_in_force=True, digest=None),
        make_release(4, status="failed", cause="faster", message=FAILED["message"]),
    ]
    return node


def becoming(world, *steps):
    """Have the app's rollout go through these steps, one for each look."""
    left = list(steps)

    def look(app):
        rollout = make_rollout(**(left.pop(0) if len(left) > 1 else left[0]))
        return app | {"rollout": rollout, "desired": 2}

    world.on_get_app = look


def test_status_waits_for_the_end(world, limpet_, golden):
    becoming(world, *WAITING)
    result = limpet_("rollout", "status", "deployment/hello")
    assert result.exit_code == 0
    golden("rollout-status.txt", result.stdout)


def test_status_without_watching_looks_once(world, limpet_):
    becoming(world, *WAITING)
    result = limpet_("rollout", "status", "deployment", "hello", "--watch=false")
    assert result.exit_code == 0
    assert "0 out of 2 new workers have been updated" in result.stdout
    assert result.stdout.count("\n") == 1


@pytest.mark.parametrize("format_", ["text", "json"])
def test_status_of_a_failed_release_says_why(world, limpet_, golden, format_):
    becoming(world, WAITING[0], FAILED)
    result = limpet_("rollout", "status", "hello", "-o", format_)
    assert result.exit_code == 1
    if format_ == "json":
        assert json.loads(result.stdout)["status"] == "failed"
    else:
        golden("rollout-status-failed.txt", result.output)


def test_status_gives_up_in_time(world, limpet_):
    becoming(world, WAITING[0])
    result = limpet_("rollout", "status", "hello", "--timeout", "10ms")
    assert result.exit_code == 7
    assert "given up after 0.01 s" in result.stderr


def test_status_of_another_revision(world, limpet_):
    result = limpet_("rollout", "status", "hello", "--revision", "3")
    assert result.exit_code == 4
    assert "release 3 of deployment/hello is not the newest: that is 4" in result.stderr
    assert limpet_("rollout", "status", "hello", "--revision", "4").exit_code == 0


def test_status_of_a_paused_rollout(world, limpet_):
    becoming(world, {"status": "paused", "in_force": 3, "is_paused": True})
    result = limpet_("rollout", "status", "hello", "--watch=false")
    assert "is paused; `limpet rollout resume` lets it go on" in result.stdout


def test_history(world, limpet_, golden):
    golden("rollout-history.txt", limpet_("rollout", "history", "deployment/hello").stdout)


def test_history_in_a_terminal(world, limpet_, golden, terminal):
    terminal(80)
    golden("rollout-history-80.txt", limpet_("rollout", "history", "deployment/hello").stdout)


def test_history_of_one_release(world, limpet_, golden):
    template = {"metadata": {"labels": {"app": "hello"}}, "spec": {"containers": []}}
    world.releases["hello"][2]["object"] = {"spec": {"replicas": 1, "template": template}}
    result = limpet_("rollout", "history", "deployment/hello", "--revision", "4")
    golden("rollout-history-revision.txt", result.stdout)


def test_history_as_json(world, limpet_):
    answer = json.loads(limpet_("rollout", "history", "hello", "-o", "json").stdout)
    assert [item["release"] for item in answer["items"]] == [2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "asked", "done", "told"),
    [
        (["undo"], {"action": "undo"}, "rolled back", "deployment/hello rolled back"),
        (
            ["undo", "--to-revision=2"],
            {"action": "undo", "to_release": 2},
            "skipped",
            "deployment/hello skipped rollback (release 5 has that template already)",
        ),
        (["pause"], {"action": "pause"}, "paused", "deployment/hello paused"),
        (["resume"], {"action": "resume"}, "resumed", "deployment/hello resumed"),
        (["restart"], {"action": "restart"}, "restarted", "deployment/hello restarted"),
        (["restart", "-o", "name"], {"action": "restart"}, "restarted", "deployment/hello"),
    ],
)
def test_changes(world, limpet_, arguments, asked, done, told):
    world.rollout_answer = {"action": done, "release": 5}
    verb, *options = arguments
    result = limpet_("rollout", verb, "deployment/hello", *options)
    assert (result.exit_code, result.stdout) == (0, told + "\n")
    assert world.rollout_calls == [("hello", asked)]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["status", "svc/hello"], 2, "a service has no rollouts"),
        (["status", "pod/hello"], 3, "hello is a deployment"),
        (["status", "nope"], 3, "app default/nope does not exist"),
        (["status", "job"], 4, "job/job has no releases"),
        (["undo", "a", "b"], 2, "name one app"),
    ],
)
def test_errors(world, limpet_, words, code, text):
    result = limpet_("rollout", *words)
    assert result.exit_code == code
    assert text in result.stderr


def test_apply_waits_for_the_release_and_says_why_it_failed(world, limpet_, tmp_path):
    becoming(world, WAITING[0], FAILED)
    manifest = tmp_path / "hello.yaml"
    manifest.write_text(
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: hello}, spec: {selector: "
        "{matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: "
        "[{name: c, image: 'https://example.com/m.wasm', ports: [{containerPort: 80}]}]}}}}"
    )
    result = limpet_("apply", "-f", manifest)
    assert result.exit_code == 1
    assert "deployment/hello failed: release 4 failed: CrashLoopBackOff" in result.stderr
    assert "release 3 is in force again" in result.stderr


def test_describe_shows_the_release_and_last_words(world, limpet_):
    words = {"time": "", "stream": "stderr", "worker": "hello-0", "line": "panicked"}
    world.add(make_app(rollout=make_rollout(**FAILED), last_output=[words]))
    told = limpet_("describe", "hello").stdout
    assert "Release:      release 4 failed: CrashLoopBackOff" in told
    assert "Last output\n  hello-0 stderr: panicked\n" in told
