from __future__ import annotations

import json
import re

import pytest

from limpet.cli import doctor
from limpet.errors import DeniedError
from limpet.provision.finding import Finding, Level

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
GOOD = [
    Finding(name="cgroup", level=Level.OK, found="kernel limits of cpu, memory, pids (cgroup v2)"),
    Finding(
        name="landlock",
        level=Level.HINT,
        found="ABI 2, without rules for truncating files, TCP, device ioctls, signals",
        without="of these only namespaces and the system call filter keep apps",
        fix="Linux 6.12 or newer",
        details={"abi": 2},
    ),
]
BAD = Finding(
    name="encryption",
    level=Level.MISSING,
    found="volumes are not encrypted",
    without="who gets the disk reads what apps stored, " * 3,
    fix="mkfs.ext4 is not installed: install e2fsprogs (apt-get install e2fsprogs)",
)


@pytest.fixture
def found(monkeypatch):
    """Let the device have this."""

    def set_findings(*findings):
        monkeypatch.setattr(doctor, "_examine", lambda settings: list(findings))
        monkeypatch.setattr(doctor.os, "geteuid", lambda: 0)

    set_findings(*GOOD)
    monkeypatch.setattr(
        doctor.os, "uname", lambda: type("Uname", (), {"release": "6.12.1", "machine": "aarch64"})
    )
    return set_findings


def test_nothing_missing(found, limpet_):
    result = limpet_("doctor")
    assert result.exit_code == 0
    assert "Nothing is missing." in result.stdout
    assert "No node is listening on" in result.stdout


def test_something_missing_has_a_code_for_scripts(found, limpet_):
    found(*GOOD, BAD)
    result = limpet_("doctor")
    assert result.exit_code == 1
    assert "Missing: encryption." in result.stdout
    assert "error" not in result.stderr
    assert limpet_("doctor", "-o", "json").exit_code == 1


@pytest.mark.parametrize("columns", [80, 120])
def test_screen(found, columns, golden):
    node = {"running": False, "problem": None}
    report = {
        "kernel": "6.12.1",
        "machine": "aarch64",
        "uid": 0,
        "socket": "/run/limpet/limpet.sock",
        "findings": [doctor._shown(finding) for finding in (*GOOD, BAD)],
        "node": node,
    }
    lines = [_ESCAPES.sub("", line) for line in doctor.render_report(report, columns=columns)]
    assert max(map(len, lines)) <= columns
    golden(f"doctor-{columns}.txt", "\n".join(lines) + "\n")


def test_a_pipe_has_80_columns_and_no_colours(found, limpet_):
    found(*GOOD, BAD)
    result = limpet_("doctor")
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "\x1b" not in result.stdout


def test_a_terminal_has_colours_and_its_own_width(found, limpet_, terminal, monkeypatch):
    monkeypatch.setattr(doctor, "is_terminal", lambda stream: True)
    echoed = []
    monkeypatch.setattr(doctor.click, "echo", echoed.append)
    found(BAD)
    terminal(100)
    limpet_("doctor")
    assert any("\x1b[31mmissing" in line for line in echoed)
    assert 80 < max(len(_ESCAPES.sub("", line)) for line in echoed) <= 100


def test_json_has_everything(found, limpet_, socket_path):
    found(*GOOD, BAD)
    told = json.loads(limpet_("doctor", "-o", "json", "--data", "/srv/limpet").stdout)
    assert told["facilities"] == {"cgroup": True, "landlock": True, "encryption": False}
    assert told["findings"][1]["details"] == {"abi": 2}
    assert told["findings"][2]["level"] == "missing"
    assert told["data_directory"] == "/srv/limpet"
    assert told["socket"] == str(socket_path)
    assert told["node"] == {"running": False, "problem": None}
    assert told["ok"] is False


def test_a_running_node_tells_what_it_found(found, node, limpet_):
    told = json.loads(limpet_("doctor", "-o", "json").stdout)["node"]
    assert told["running"]
    assert told["version"] == "0.1.0"
    assert told["facilities"]["volumes"] is None
    assert told["keys"]["source"] == "file"
    node.node["facilities"]["user"] = False
    text = limpet_("doctor").stdout
    assert "It found user missing; volumes, encryption not needed so far." in text
    assert "protects: a lost disk" in text
    assert "not: root" in text


def test_a_node_that_refuses_is_no_failure(found, limpet_, monkeypatch):
    def refuse(*arguments, **options):
        raise DeniedError("permission denied")

    monkeypatch.setattr("limpet.api.client.Client.node", refuse)
    result = limpet_("doctor")
    assert result.exit_code == 0
    assert "A node can't be asked: permission denied." in result.stdout


def test_help_has_examples(limpet_):
    result = limpet_("doctor", "--help")
    assert "sudo limpet doctor" in result.stdout
    assert "Exit code 0" in result.stdout
