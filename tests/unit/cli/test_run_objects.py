from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from limpet.cli.run_objects import (
    RunOptionError,
    RunOptions,
    Volume,
    compile_objects,
    name_of_module,
    option_of,
    parse_env,
    parse_listen,
    parse_volume,
)
from limpet.manifest.model import App, RestartPolicy, Trigger
from limpet.manifest.parse import parse_object


def compiled(**options):
    return compile_objects(
        RunOptions(**{"module": "hello.wasm", "name": "hello", "env": {}} | options)
    )


def parsed(**options) -> App:
    """What the last object means."""
    return parse_object(compiled(**options)[-1])


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("hello.wasm", "hello"),
        ("./target/wasm32-wasip2/release/Hello_World.wasm", "hello-world"),
        ("/a/b.c.wasm", "b-c"),
        ("ghcr.io/you/app:1.2", "app"),
        ("ghcr.io/you/app@sha256:" + "a" * 64, "app"),
        ("localhost:5000/app", "app"),
        ("https://example.com/x/greeter.wasm?raw=1#sha256=ab", "greeter"),
        ("___.wasm", "app"),
        ("x" * 100 + ".wasm", "x" * 63),
    ],
)
def test_names(module, name):
    assert name_of_module(module) == name


@given(st.text(max_size=80))
def test_names_are_always_valid(module):
    from limpet.manifest.names import check_label

    assert check_label(name_of_module(module)) is None


def test_ports():
    assert parse_listen("8080") == "127.0.0.1:8080"
    assert parse_listen("0.0.0.0:80") == "0.0.0.0:80"
    assert parse_listen("[::]:80") == "[::]:80"


def test_volumes():
    assert parse_volume("data:/data") == Volume(name="data", size=None, path="/data")
    assert parse_volume("data:200Mi:/data") == Volume(name="data", size="200Mi", path="/data")
    for text in ("data", "data:", "/data", ":/data", "a:b:c:/d", "data:200Mi:data"):
        with pytest.raises(RunOptionError, match="write NAME:/path"):
            parse_volume(text)


def test_env():
    assert parse_env(["A=1", "B=x=y", "A=2", "C="]) == {"A": "2", "B": "x=y", "C": ""}
    for text in ("hunter2", "=x"):
        with pytest.raises(RunOptionError) as error:
            parse_env([text])
        assert "hunter2" not in str(error.value)


def test_a_port_makes_a_deployment():
    app = parsed(listen="127.0.0.1:8080", workers=2, idle_timeout="30s", deadline="2s")
    assert (app.kind, app.trigger, app.name) == ("Deployment", Trigger.HTTP, "hello")
    assert app.http.listen == "127.0.0.1:8080"
    assert (app.workers, app.http.idle_timeout_seconds, app.deadline_seconds) == (2, 30.0, 2.0)


def test_http_without_a_port_takes_a_free_one():
    assert parsed(trigger="http").http.listen == "127.0.0.1:0"


def test_a_command_is_a_job_that_runs_once():
    app = parsed(args=("--since", "monday"))
    assert (app.kind, app.trigger) == ("Job", Trigger.COMMAND)
    assert (app.restart_policy, app.backoff_limit) == (RestartPolicy.NEVER, 0)
    assert app.args == ("--since", "monday")


def test_restarts():
    assert parsed(restart="OnFailure").restart_policy is RestartPolicy.ON_FAILURE
    assert parsed(restart="OnFailure").backoff_limit == 6
    always = parsed(restart="Always")
    assert (always.kind, always.trigger) == ("Deployment", Trigger.COMMAND)


@pytest.mark.parametrize(
    "options",
    [
        {"trigger": "command", "listen": "127.0.0.1:1"},
        {"listen": "127.0.0.1:1", "restart": "Never"},
        {"workers": 2},
        {"idle_timeout": "5s"},
    ],
)
def test_contradictions(options):
    with pytest.raises(RunOptionError):
        compiled(**options)


def test_limits_environment_and_volumes():
    volumes = [Volume(name="readings", size="200Mi", path="/data")]
    claim, deployment = compiled(
        listen="127.0.0.1:1", cpu="1", memory="128Mi", env={"A": "1"}, volumes=volumes
    )
    assert parse_object(claim).size_bytes == 200 << 20
    app = parse_object(deployment)
    assert (app.cpu_cores, app.memory_bytes) == (1.0, 128 << 20)
    assert [(variable.name, variable.value) for variable in app.env] == [("A", "1")]
    assert [(mount.source, mount.path) for mount in app.mounts] == [("readings", "/data")]


def test_namespace_is_written_when_it_was_given():
    assert "namespace" not in compiled()[-1]["metadata"]
    objects = compiled(namespace="shop", volumes=[Volume(name="v", size=None, path="/v")])
    assert {item["metadata"]["namespace"] for item in objects} == {"shop"}


def test_what_was_typed_is_not_expanded():
    [job] = compiled(args=("$(HOME)",), env={"A": "$(B)"})
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["$$(HOME)"]
    assert container["env"] == [{"name": "A", "value": "$$(B)"}]


@pytest.mark.parametrize(
    ("path", "option"),
    [
        (("metadata", "name"), "--name"),
        (("metadata", "namespace"), "--namespace"),
        (("metadata", "annotations", "limpet.dev/listen"), "--port"),
        (("spec", "template", "spec", "containers", 0, "resources", "limits", "cpu"), "--cpu"),
        (("spec", "template", "spec", "containers", 0, "image"), "MODULE"),
        (("spec", "template", "spec", "containers", 0, "env", 1, "name"), "--env"),
        (("spec", "resources", "requests", "storage"), "--volume"),
        (("spec",), "limpet run"),
    ],
)
def test_options_of_fields(path, option):
    assert option_of(path) == option


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20))
)
def test_yaml_keeps_every_argument(args):
    objects = compiled(args=tuple(args))
    assert yaml.safe_load(yaml.safe_dump(objects[-1])) == objects[-1]
