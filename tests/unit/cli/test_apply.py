from __future__ import annotations

import hashlib
import json

import pytest

from .fake_node import make_app

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
  annotations: {{limpet.dev/listen: "127.0.0.1:8080"}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
      - name: {name}
        image: {image}
"""
CONFIG = """
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {mode: field}
"""


def deployment(name="hello", image="./hello.wasm"):
    return DEPLOYMENT.format(name=name, image=image)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "hello.wasm").write_bytes(b"\0asm module")
    (tmp_path / "hello.yaml").write_text(deployment())
    return tmp_path


def test_apply_uploads_waits_and_tells(node, limpet_, folder):
    result = limpet_("apply", "-f", folder / "hello.yaml")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "deployment/hello created\n"
    assert result.stderr == "deployment/hello running at http://127.0.0.1:8080/\n"
    digest = "sha256:" + hashlib.sha256(b"\0asm module").hexdigest()
    assert node.modules == {digest: b"\0asm module"}
    assert node.apps["default", "hello"]["digest"] == digest


def test_a_module_is_sent_once(node, limpet_, folder):
    (folder / "second.yaml").write_text(deployment("second"))
    limpet_("apply", "-f", folder)
    limpet_("apply", "-f", folder)
    assert len(node.asked("PUT")) == 1


def test_second_apply_changes_nothing_or_says_what(node, limpet_, folder):
    limpet_("apply", "-f", folder)
    assert limpet_("apply", "-f", folder).stdout == "deployment/hello unchanged\n"
    text = (folder / "hello.yaml").read_text()
    (folder / "hello.yaml").write_text(text.replace("8080", "8081"))
    assert limpet_("apply", "-f", folder).stdout == "deployment/hello configured\n"


def test_folders_are_sorted_and_filtered(node, limpet_, folder):
    (folder / "a.yml").write_text(CONFIG)
    (folder / "notes.txt").write_text("no manifest")
    (folder / "z.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": []}))
    (folder / "z.json").unlink()
    result = limpet_("apply", "-f", folder)
    assert result.stdout == "configmap/conf created\ndeployment/hello created\n"


def test_stdin_is_relative_to_here(node, limpet_, folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert limpet_("apply", "-f", "-", input=deployment()).exit_code == 0


def test_namespace(node, limpet_, folder):
    limpet_("apply", "-f", folder, "-n", "shop")
    assert ("shop", "hello") in node.apps
    (folder / "hello.yaml").write_text(CONFIG.replace("conf}", "conf, namespace: other}"))
    result = limpet_("apply", "-f", folder, "-n", "shop")
    assert result.exit_code == 2
    assert "metadata.namespace: is other, but --namespace says shop" in result.stderr


def test_problems_of_all_files_are_told_at_once(limpet_, folder):
    (folder / "a.yaml").write_text("kind: [unclosed")
    (folder / "b.yaml").write_text(CONFIG + "surprise: 1\n")
    (folder / "c.yaml").write_text(CONFIG.replace("name: conf", "name: Bad_Name"))
    result = limpet_("apply", "-f", folder)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert all(line.startswith(f"error: {folder}/") for line in lines)
    assert [line.removeprefix(f"error: {folder}/")[:6] for line in lines] == [
        "a.yaml",
        "b.yaml",
        "c.yaml",
    ]


def test_the_same_object_twice(limpet_, folder):
    (folder / "copy.yaml").write_text(deployment())
    result = limpet_("apply", "-f", folder)
    assert result.exit_code == 2
    assert f"hello.yaml:5: metadata.name: Deployment default/hello is already in {folder}" in (
        result.stderr.replace("copy.yaml", "hello.yaml")
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("absent.yaml", "absent.yaml: can't read it: No such file or directory"),
        ("empty", "no .yaml, .yml or .json file in this folder"),
        ("blank.yaml", "blank.yaml:1: has no object in it"),
    ],
)
def test_nothing_to_apply(limpet_, tmp_path, name, text):
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.yaml").write_text("# nothing\n")
    result = limpet_("apply", "-f", tmp_path / name)
    assert result.exit_code == 2
    assert text in result.stderr


def test_a_missing_module_names_the_manifests_line(limpet_, folder):
    (folder / "hello.wasm").unlink()
    result = limpet_("apply", "-f", folder)
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {folder}/hello.yaml:14: spec.template.spec.containers[0].image: "
        f"can't read {folder}/hello.wasm: No such file or directory\n"
    )


def test_a_pinned_module_must_match(limpet_, folder):
    text = deployment().replace(
        "annotations: {", f"annotations: {{limpet.dev/digest: 'sha256:{'0' * 64}', "
    )
    (folder / "hello.yaml").write_text(text)
    result = limpet_("apply", "-f", folder)
    assert result.exit_code == 2
    assert "is pinned" in result.stderr


def test_dry_run_sends_and_changes_nothing(node, limpet_, folder):
    result = limpet_("apply", "-f", folder, "--dry-run")
    assert result.stdout == "deployment/hello created (dry run)\n"
    assert (node.modules, node.objects, node.asked("HEAD")) == ({}, {}, [])


def test_warnings_of_the_node(node, limpet_, folder):
    node.warnings = ["replicas are processes here"]
    assert "warning: deployment/hello: replicas are processes here\n" in (
        limpet_("apply", "-f", folder).stderr
    )


def test_errors_of_the_node(node, limpet_, folder):
    problems = [{"where": "Deployment/hello", "path": "spec", "why": "too much"}]
    body = {"error": {"reason": "Conflict", "message": "no", "problems": problems}}
    node.failures["POST", "/v1/apply"] = (409, [], body)
    result = limpet_("apply", "-f", folder)
    assert result.exit_code == 4
    assert result.stderr == "error: Deployment/hello: spec: too much\n"


def becoming(node, *states):
    """The app goes through these changes, one at each look."""
    left = iter(states)
    node.on_apply = lambda app: app | {"phase": "Pending", "ready": 0}
    node.on_get_app = lambda app: app | next(left, {})


def test_waiting_follows_the_app(node, limpet_, folder):
    compiling = {"reason": "CompilingModule", "message": "3 MiB"}
    running = {"phase": "Running", "reason": None, "ready": 1}
    becoming(node, compiling, compiling, running)
    assert limpet_("apply", "-f", folder).exit_code == 0
    assert len(node.asked("GET")) == 3


@pytest.mark.parametrize("phase", ["Running", "Idle", "Succeeded"])
def test_what_counts_as_ready(node, limpet_, folder, phase):
    becoming(node, {"phase": phase, "ready": 1})
    assert limpet_("apply", "-f", folder).exit_code == 0


def test_an_old_status_is_not_taken_for_the_new_one(node, limpet_, folder):
    limpet_("apply", "-f", folder)
    text = (folder / "hello.yaml").read_text()
    (folder / "hello.yaml").write_text(text.replace("8080", "8081"))
    old = {"generation": 1, "phase": "Running", "ready": 1}
    becoming(
        node,
        old,
        old,
        {"generation": 2, "phase": "Pending", "reason": "InvalidModule", "is_final": True},
    )
    assert limpet_("apply", "-f", folder).exit_code == 1


@pytest.mark.parametrize(
    "state",
    [
        {"reason": "InvalidModule", "message": "no wasm", "is_final": True},
        {"phase": "Failed", "reason": "Error", "message": "no wasm"},
        {"reason": "CrashLoopBackOff", "message": "no wasm"},
        {"phase": "Running", "ready": 1, "reason": "CrashLoopBackOff", "message": "no wasm"},
    ],
)
def test_a_failing_app_fails_the_apply(node, limpet_, folder, state):
    becoming(node, state)
    result = limpet_("apply", "-f", folder)
    assert result.exit_code == 1
    assert result.stdout == "deployment/hello created\n"
    assert "error: deployment/hello failed: " in result.stderr
    assert "no wasm; see `limpet describe hello` and `limpet logs hello`" in result.stderr


def test_time_runs_out(node, limpet_, folder):
    becoming(node, {"reason": "PortInUse", "message": "8080 is taken"})
    result = limpet_("apply", "-f", folder, "--timeout", "60ms", "-n", "shop")
    assert result.exit_code == 7
    assert result.stderr == (
        "error: deployment/hello is not ready after 0.06 s: Pending, PortInUse: 8080 is taken "
        "(0/1 ready); see `limpet describe hello -n shop`\n"
    )


def test_no_wait(node, limpet_, folder):
    becoming(node, {"phase": "Failed"})
    result = limpet_("apply", "-f", folder, "--no-wait")
    assert (result.exit_code, result.stderr) == (0, "")
    assert node.asked("GET") == []


def test_json(node, limpet_, folder):
    (folder / "conf.yaml").write_text(CONFIG)
    answer = json.loads(limpet_("apply", "-f", folder, "-o", "json").stdout)
    config, app = answer["items"]
    assert config == {
        "kind": "ConfigMap",
        "namespace": "default",
        "name": "conf",
        "action": "created",
        "warnings": [],
    }
    assert (app["action"], app["phase"], app["endpoints"]) == (
        "created",
        "Running",
        ["127.0.0.1:8080"],
    )


def test_json_of_a_failure_is_still_json(node, limpet_, folder):
    becoming(node, {"phase": "Failed", "reason": "Error"})
    result = limpet_("apply", "-f", folder, "-o", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["items"][0]["phase"] == "Failed"


def test_names(node, limpet_, folder):
    assert limpet_("apply", "-f", folder, "-o", "name").stdout == "deployment/hello\n"


def test_terminal_shows_progress_and_status(node, limpet_, folder, terminal, monkeypatch):
    (folder / "hello.wasm").write_bytes(b"\0asm" + b"x" * (3 << 20))
    becoming(node, {"reason": "CompilingModule"}, {"phase": "Running", "ready": 1})
    result = limpet_("apply", "-f", folder)
    assert "uploading hello.wasm" in result.stderr
    assert "hello: Pending, CompilingModule" in result.stderr


def test_no_node(limpet_, folder, socket_path):
    result = limpet_("apply", "-f", folder)
    assert result.exit_code == 6
    assert f"no node is listening on {socket_path}" in result.stderr


def test_a_file_is_needed(limpet_):
    assert limpet_("apply").exit_code == 2


def test_what_get_prints_can_be_applied(node, limpet_, folder, monkeypatch):
    limpet_("apply", "-f", folder)
    monkeypatch.chdir(folder)
    for output in ("yaml", "json"):
        text = limpet_("get", "deploy", "-o", output).stdout
        assert limpet_("apply", "-f", "-", input=text).stdout == "deployment/hello unchanged\n"


def test_make_app_is_ready():
    from limpet.cli.waiting import is_ready

    assert is_ready(make_app())
    assert not is_ready(make_app(ready=0))
