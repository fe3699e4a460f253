from __future__ import annotations

import json

import pytest

from .fake_node import make_app, make_job


@pytest.fixture
def world(node):
    usage = {
        "cpu_cores": 0.49,
        "cpu_seconds": 100,
        "pss_bytes": 63 << 20,
        "uss_bytes": 63 << 20,
        "memory_bytes": 60 << 20,
        "memory_peak_bytes": 64 << 20,
        "throttled_share": 0.62,
        "throttled_seconds": 31.5,
    }
    node.add(make_app(), make_app("busy", usage=usage, restarts=2), make_job())
    return node


def test_table(world, limpet_, golden):
    golden("top.txt", limpet_("top").stdout)


def test_terminal(world, limpet_, golden, terminal):
    golden("top-terminal.txt", limpet_("top", "-A").stdout)


def test_narrow_terminal_keeps_what_matters(world, limpet_, golden, terminal):
    terminal(60)
    golden("top-narrow.txt", limpet_("top").stdout)


def test_json(world, limpet_):
    answer = json.loads(limpet_("top", "-o", "json").stdout)
    assert answer["node"]["name"] == "rock"
    assert {app["name"] for app in answer["items"]} == {"hello", "busy", "report"}


def test_no_apps_still_shows_the_node(node, limpet_):
    result = limpet_("top")
    assert "No apps in namespace default." in result.stderr
    assert "zygote" in result.stdout


@pytest.mark.parametrize("output", [[], ["-o", "json"]])
def test_watch_goes_on_until_interrupted(world, limpet_, monkeypatch, output):
    rounds = iter(range(2))

    def pause(seconds):
        if next(rounds, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr("limpet.cli.top.time.sleep", pause)
    result = limpet_("top", "--watch", *output)
    assert result.exit_code == 130
    assert "busy" in result.stdout
