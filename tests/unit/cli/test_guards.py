from __future__ import annotations

import json

import pytest

from limpet.cli.guards import app_warnings, limits_notice, node_warnings

from .fake_node import NO_LIMITS, WITHOUT_ROOT, make_app, make_exit, make_object, make_worker

WALLS = "running without namespaces, user: the node does not run as root; see `limpet doctor`"
LIMITS = "no kernel limit of CPU, memory, processes: /sys/fs/cgroup can't be written; see"


@pytest.fixture
def unguarded(node):
    limits = make_app()["limits"] | {"not_enforced": NO_LIMITS}
    node.add(*(make_app(name, limits=limits, **WITHOUT_ROOT) for name in ("hello", "other")))
    node.node |= {**WITHOUT_ROOT, "not_enforced": NO_LIMITS}
    return node


def test_what_an_app_does_without_is_told():
    assert app_warnings(make_app()) == []
    limits = make_app()["limits"] | {"not_enforced": {"memory": "it is switched off: add x"}}
    assert app_warnings(make_app(limits=limits)) == [
        "no kernel limit of memory: it is switched off; see `limpet doctor`"
    ]
    assert app_warnings(make_app(**WITHOUT_ROOT)) == [WALLS]


def test_an_older_node_tells_nothing():
    app = make_app(limits={"cpu_cores": 1.0, "memory_bytes": 1})
    del app["missing_walls"], app["missing_walls_why"]
    assert app_warnings(app) == []
    assert node_warnings({}) == []
    assert limits_notice({}) == ""


def test_one_line_says_that_the_kernel_limits_nothing():
    assert limits_notice({"not_enforced": {"memory": "x: y"}}) == ""
    told = limits_notice({"not_enforced": NO_LIMITS})
    assert told.startswith("no kernel limits here, only the engine's hold: ")
    assert "\n" not in told


def test_describe_marks_each_limit(unguarded, limpet_):
    told = limpet_("describe", "hello").stdout
    assert "500m CPU (not enforced), 64Mi memory (engine only), 64 processes (not enforced)" in told
    assert WALLS in told
    assert LIMITS in told


def test_describe_of_a_node_names_its_guards(unguarded, limpet_):
    told = limpet_("describe", "node").stdout
    assert "Guards:    cgroup, landlock, seccomp, namespaces, user" in told
    assert WALLS in told


def test_get_warns_once_for_all_apps(unguarded, limpet_):
    result = limpet_("get", "apps")
    assert result.stderr.count(WALLS) == 1
    assert result.stderr.count(LIMITS) == 1
    assert "warning" not in result.stdout
    assert limpet_("get", "apps", "-o", "name").stderr == ""


def test_volumes_tell_how_full_they_are(node, limpet_):
    claim = make_object("PersistentVolumeClaim", "readings", {})
    usage = {"size_bytes": 200 << 20, "used_bytes": 50 << 20, "available_bytes": 150 << 20}
    node.store(claim | {"usage": usage}, make_object("PersistentVolumeClaim", "unused", {}))
    full, unused = limpet_("get", "pvc").stdout.splitlines()[1:]
    assert "50Mi of 200Mi (25%)" in full
    assert " of " not in unused
    assert "Used:        50Mi of 200Mi (25%)" in limpet_("describe", "pvc/readings").stdout
    told = json.loads(limpet_("describe", "pvc/readings", "-o", "json").stdout)
    assert told["object"]["usage"] == usage


@pytest.mark.parametrize("reason", ["OOMKilled", "SystemCallDenied"])
def test_what_the_kernel_killed_is_seen(node, limpet_, reason):
    older = make_exit(reason="Error", finished_at="2026-01-02T03:04:04Z")
    workers = [
        make_worker("hello-0", last_exit=make_exit(reason=reason, message="killed by the kernel")),
        make_worker("hello-1", last_exit=older),
    ]
    node.add(make_app(workers=workers))
    assert f"{reason}: killed by the kernel, 3m12s ago" in limpet_("describe", "hello").stdout
    assert reason in limpet_("get", "apps", "-o", "wide").stdout


def test_run_says_that_only_the_engine_limits(unguarded, limpet_, tmp_path):
    module = tmp_path / "report.wasm"
    module.write_bytes(b"\0asm\1\0\0\0")
    assert "only the engine's hold" in limpet_("run", module, "--detach").stderr
