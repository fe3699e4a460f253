from __future__ import annotations

import json

from limpet import __version__


def test_with_a_node(node, limpet_):
    lines = limpet_("version").stdout.splitlines()
    assert lines[0].startswith(f"Client:   {__version__} (Python ")
    assert lines[1:] == [
        "Node:     0.1.0 on rock (Python 3.11.7)",
        "Engine:   wasmtime 50.0.1 (x86_64)",
    ]


def test_without_a_node(limpet_):
    result = limpet_("version")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1] == "Node:     not running"


def test_json(node, limpet_):
    answer = json.loads(limpet_("version", "-o", "json").stdout)
    assert answer["client"]["version"] == __version__
    assert answer["node"]["engine"] == "wasmtime 50.0.1"


def test_json_without_a_node(limpet_):
    assert json.loads(limpet_("version", "-o", "json").stdout)["node"] is None


def test_a_failing_node_is_an_error(node, limpet_):
    node.failures["GET", "/v1/node"] = (500, [], {"error": {"reason": "X", "message": "broken"}})
    assert limpet_("version").exit_code == 1
