from __future__ import annotations

import json

import pytest

from .fake_node import make_app, make_record


@pytest.fixture
def world(node):
    node.add(make_app())
    node.logs["default", "hello"] = [
        make_record("first"),
        make_record("\x1b[31mred\x1b[0m\x07"),
        make_record("raw \udcff byte"),
    ]
    return node


def test_a_pipe_gets_the_bytes(world, limpet_):
    result = limpet_("logs", "hello")
    assert result.exit_code == 0
    assert result.stdout_bytes == b"first\n\x1b[31mred\x1b[0m\x07\nraw \xff byte\n"


def test_a_terminal_gets_clean_text(world, limpet_, terminal):
    assert limpet_("logs", "hello").stdout == "first\nred\nraw \ufffd byte\n"


def test_json_is_one_record_a_line(world, limpet_):
    lines = limpet_("logs", "deploy/hello", "-o", "json").stdout.splitlines()
    assert json.loads(lines[0]) == make_record("first")


def test_options_become_the_query(world, limpet_):
    result = limpet_("logs", "hello", "--tail", "1", "--since", "5m", "--previous", "--timestamps")
    assert result.stdout_bytes == b"raw \xff byte\n"
    assert world.asked("GET") == [
        "/v1/apps/default/hello/logs?tail=1&since=300&previous=true&timestamps=true"
    ]


def test_follow_ends_with_the_app(world, limpet_):
    rounds = iter(range(5))

    def more(app):
        world.logs["default", "hello"].append(make_record("later"))
        return next(rounds, None) is not None

    world.keeps_log_open = more
    assert limpet_("logs", "hello", "-f").stdout_bytes.count(b"later\n") == 5


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["nope"], 3, "app default/nope does not exist"),
        (["svc/hello"], 2, "a service writes no log"),
        (["hello", "--since", "5"], 2, '"5" is not a duration'),
        (["hello", "--tail", "-1"], 2, "--tail"),
    ],
)
def test_errors(world, limpet_, arguments, code, text):
    result = limpet_("logs", *arguments)
    assert result.exit_code == code
    assert text in result.stderr
