from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import limpet
from limpet.cli import child_node

from .fake_node import make_app, make_exit, make_job, make_record, make_worker

FAKE_NODE = Path(__file__).parent / "fake_node_process.py"
SCRIPT = """
import sys
from limpet.cli import child_node
from limpet.cli.main import main
fake = sys.argv.pop(1)
child_node.node_command = lambda *, data, socket: [
    sys.executable, fake, "--data", data, "--socket", socket
]
main()
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hello.wasm").write_bytes(b"\0asm")
    return "hello.wasm"


def ended(**last):
    """A Job that failed with this last exit."""
    worker = make_worker(state="Completed", last_exit=make_exit(**last))
    return {"phase": "Failed", "reason": "Error", "message": "it failed", "workers": [worker]}


def test_dry_run_prints_the_manifest(limpet_, golden):
    result = limpet_(
        "run",
        "api.wasm",
        *("--port", "8080", "--env", "MODE=field", "--cpu", "1", "--memory", "128Mi"),
        *("--volume", "readings:200Mi:/data", "--workers", "2", "--idle-timeout", "5m"),
        *("--dry-run", "-o", "yaml", "--", "--verbose", "yes"),
    )
    assert result.exit_code == 0, result.stderr
    golden("run-http.yaml", result.stdout)


def test_dry_run_names_the_engine_and_the_trigger(limpet_):
    options = ("--port", "8080", "--engine", "wasmedge", "--trigger", "socket")
    text = limpet_("run", "server.wasm", *options, "--dry-run", "-o", "json").stdout
    [app] = json.loads(text)["items"]
    assert app["metadata"]["annotations"] == {
        "limpet.dev/engine": "wasmedge",
        "limpet.dev/listen": "127.0.0.1:8080",
        "limpet.dev/trigger": "socket",
    }


def test_dry_run_of_a_command(limpet_, golden):
    golden("run-command.yaml", limpet_("run", "report.wasm", "--dry-run").stdout)


def test_dry_run_can_be_applied(node, limpet_, module):
    text = limpet_("run", module, "--port", "0", "--dry-run", "-o", "json").stdout
    assert json.loads(text)["kind"] == "List"
    assert limpet_("apply", "-f", "-", input=text).stdout == "deployment/hello created\n"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--port", "99999"], "--port: metadata.annotations"),
        (["--memory", "64Q"], "--memory: spec.template.spec.containers[0].resources"),
        (["--name", "Bad_Name"], "--name: metadata.name"),
        (["--env", "hunter2"], "--env: write NAME=VALUE"),
        (["--volume", "x"], "--volume x: write"),
        (["--workers", "2"], "--workers is for apps that serve"),
        (["--port", "1", "--trigger", "command"], "--port makes an app that serves"),
        (["--trigger", "socket"], "--trigger socket needs --port"),
        (["--engine", "v8"], "is not one of"),
        (["-o", "yaml"], "-o is for the manifest"),
    ],
)
def test_bad_options(limpet_, module, options, text):
    result = limpet_("run", module, *options)
    assert result.exit_code == 2
    assert text in result.stderr


def test_a_missing_file_is_told_before_anything_starts(limpet_, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = limpet_("run", "nope.wasm")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: MODULE: ")


def test_a_command_runs_once(node, limpet_, module):
    node.logs["default", "hello"] = [make_record("out"), make_record("err", stream="stderr")]
    result = limpet_("run", module, "--", "a", "b")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "out\n", "err\n")
    assert node.apps == {}
    assert node.asked("DELETE") == ["/v1/objects/Job/default/hello"]


def test_the_exit_code_is_the_guests(node, limpet_, module):
    node.logs["default", "hello"] = [make_record("giving up")]
    node.on_apply = lambda app: app | ended(reason="Error", exit_code=42, signal=None)
    result = limpet_("run", module)
    assert (result.exit_code, result.stdout, result.stderr) == (42, "giving up\n", "")


@pytest.mark.parametrize(
    ("last", "code", "text"),
    [
        ({"reason": "OOMKilled", "message": "64Mi"}, 128 + signal.SIGKILL, "OOMKilled: 64Mi"),
        (
            {"reason": "Trap", "message": "unreachable", "signal": None, "exit_code": 1},
            1,
            "Trap: unreachable",
        ),
    ],
)
def test_a_guest_that_was_ended_says_why(node, limpet_, module, last, code, text):
    node.on_apply = lambda app: app | ended(**last)
    result = limpet_("run", module)
    assert result.exit_code == code
    assert result.stderr == f"error: job/hello failed: {text}\n"


def test_a_command_is_followed_to_its_end(node, limpet_, module):
    looks = iter(range(3))
    node.on_apply = lambda app: (
        app
        | {
            "phase": "Running",
            "reason": None,
            "is_final": False,
            "ready": 1,
            "workers": [],
        }
    )

    def on_get_app(app):
        if next(looks, None) is None:
            return make_job("hello")
        node.logs.setdefault(("default", "hello"), []).append(make_record("tick"))
        return None

    node.on_get_app = on_get_app
    node.keeps_log_open = lambda app: app is not None and app["phase"] == "Running"
    result = limpet_("run", module)
    assert result.exit_code == 0
    assert result.stdout.startswith("tick\n")


def test_http_runs_until_interrupted(node, limpet_, module):
    def interrupt(app):
        os.kill(os.getpid(), signal.SIGINT)
        return True

    node.keeps_log_open = interrupt
    result = limpet_("run", module, "--port", "8080")
    assert result.exit_code == 130
    assert result.stdout == "http://127.0.0.1:8080/\n"
    assert "hello answers here until Ctrl-C" in result.stderr
    assert node.apps == {}


def test_a_failing_app_shows_its_log(node, limpet_, module):
    node.logs["default", "hello"] = [make_record("no config", stream="stderr")]
    node.on_apply = lambda app: app | {"phase": "Pending", "reason": "CrashLoopBackOff"}
    result = limpet_("run", module, "--port", "0")
    assert result.exit_code == 1
    assert result.stderr == (
        "no config\nerror: deployment/hello failed: Pending, CrashLoopBackOff\n"
    )
    assert node.apps == {}


def test_detach_leaves_it_and_prints_the_url(node, limpet_, module):
    result = limpet_("run", module, "--port", "0", "--detach")
    assert result.exit_code == 0
    assert result.stdout == "http://127.0.0.1:8080/\n"
    assert "stop it with `limpet delete hello`" in result.stderr
    assert ("default", "hello") in node.apps


def test_detach_needs_a_node(limpet_, module):
    result = limpet_("run", module, "--detach")
    assert result.exit_code == 6
    assert "--detach needs a node that stays" in result.stderr


def test_what_runs_already_is_left_alone(node, limpet_, module):
    node.add(make_app())
    result = limpet_("run", module)
    assert result.exit_code == 4
    assert "app default/hello exists; choose another --name" in result.stderr
    assert ("default", "hello") in node.apps
    assert node.asked("DELETE") == []


def test_an_existing_volume_is_taken_as_it_is(node, limpet_, module):
    limpet_("run", module, "--volume", "readings:16Mi:/data")
    stored = node.objects["PersistentVolumeClaim", "default", "readings"]
    assert limpet_("run", module, "--volume", "readings:/data").exit_code == 0
    assert node.objects["PersistentVolumeClaim", "default", "readings"] == stored


def test_data_is_for_a_node_of_our_own(node, limpet_, module):
    result = limpet_("run", module, "--data", "x")
    assert result.exit_code == 4
    assert "has its own data" in result.stderr


@pytest.fixture
def own_node(socket_path, module):
    """Run `limpet run` as a process that starts the fake node as its own."""

    def start(*arguments):
        return subprocess.Popen(
            [
                *(sys.executable, "-c", SCRIPT, FAKE_NODE),
                *("--socket", socket_path, "run", module, *arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(limpet.__file__).parents[1])},
        )

    return start


def test_without_a_node_one_is_started_and_stopped(own_node, socket_path, tmp_path):
    with own_node("--data", "data") as process:
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert out == "to stdout\n"
    assert f"one runs on {socket_path} as long as this does" in err
    assert f"its data stays in {tmp_path}/data" in err
    assert (tmp_path / "data/stopped").read_text() == "apps left: []\n"
    assert not socket_path.exists()


def test_temporary_data_is_removed(own_node, tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with own_node() as process:
        _, err = process.communicate(timeout=30)
    assert "nothing is kept" in err
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_stop_app_and_node(own_node, socket_path, tmp_path, number):
    with own_node("--port", "8080", "--data", "data") as process:
        assert process.stdout.readline() == "http://127.0.0.1:8080/\n"
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert (tmp_path / "data/stopped").read_text() == "apps left: []\n"
    assert not socket_path.exists()


def test_a_killed_run_leaves_no_node(own_node, socket_path, tmp_path):
    with own_node("--port", "8080", "--data", "data") as process:
        assert process.stdout.readline() == "http://127.0.0.1:8080/\n"
        process.kill()
        # The node holds our stderr nowhere: its end is seen by the file that it leaves.
        process.communicate(timeout=30)
    for _ in range(500):
        if (tmp_path / "data/stopped").exists():
            break
        signal.sigtimedwait([], 0.01)
    assert (tmp_path / "data/stopped").read_text() == "apps left: ['hello']\n"


def test_a_node_that_does_not_start_says_why(limpet_, module, monkeypatch):
    program = "import sys; sys.exit('the disk is full')"
    monkeypatch.setattr(
        child_node, "node_command", lambda **options: [sys.executable, "-c", program]
    )
    result = limpet_("run", module)
    assert result.exit_code == 6
    assert "error: the node ended while it started (exit code 1):\n" in result.stderr
    assert "the disk is full" in result.stderr


def test_a_node_that_cannot_be_executed(limpet_, module, monkeypatch):
    monkeypatch.setattr(child_node, "node_command", lambda **options: ["/nowhere/python"])
    result = limpet_("run", module)
    assert result.exit_code == 6
    assert "can't start a node: No such file or directory" in result.stderr


def test_printed_manifest_is_one_app_without_volumes(limpet_):
    text = limpet_("run", "a.wasm", "--port", "1", "--dry-run").stdout
    assert [document["kind"] for document in yaml.safe_load_all(text)] == ["Deployment"]
