from __future__ import annotations

import os
import sys

import pytest


@pytest.fixture
def executed(monkeypatch):
    """What would have been executed."""
    calls = []
    monkeypatch.setattr(os, "execve", lambda path, arguments, _: calls.append((path, arguments)))
    return calls


def invoke(*arguments):
    from click.testing import CliRunner

    from limpet.cli.main import limpet

    return CliRunner().invoke(limpet, ["up", *arguments])


def test_becomes_a_lean_interpreter_with_what_was_given(executed):
    result = invoke("--data", "d", "--socket", "s", "--config", "/dev/null", "--name", "rock")
    assert result.exit_code == 0, result.stderr
    options = ["--data", "d", "--socket", "s", "--config", "/dev/null", "--name", "rock"]
    assert executed == [(sys.executable, [sys.executable, "-P", "-m", "limpet.node", *options])]


def test_passes_nothing_that_was_not_given(executed):
    invoke()
    assert executed[0][1][4:] == []


def test_the_sockets_variable_counts(executed, monkeypatch):
    monkeypatch.setenv("LIMPET_SOCKET", "/tmp/other.sock")
    invoke()
    assert executed[0][1][4:] == ["--socket", "/tmp/other.sock"]


def test_bad_settings_are_refused_here(executed, tmp_path, monkeypatch):
    file = tmp_path / "limpet.toml"
    file.write_text("[node]\nnam = 'x'\n")
    result = invoke("--config", str(file))
    assert result.exit_code == 2
    assert "unknown setting node.nam; did you mean node.name?" in result.stderr
    monkeypatch.setenv("LIMPET_HTTP_CONNECTIONS", "many")
    result = invoke()
    assert result.exit_code == 2
    assert "LIMPET_HTTP_CONNECTIONS" in result.stderr
    assert invoke("--config", str(tmp_path / "absent")).exit_code == 2
    assert executed == []


def test_a_passphrase_goes_along_as_a_descriptor_only(executed, tmp_path, monkeypatch):
    monkeypatch.setenv("LIMPET_KEYS_SOURCE", "passphrase")
    reader, writer = os.pipe()
    os.write(writer, b"long enough\n")
    os.close(writer)
    result = invoke("--data", str(tmp_path / "d"), "--passphrase-fd", str(reader))
    assert result.exit_code == 0, result.stderr
    [(_, arguments)] = executed
    assert arguments[-2] == "--unlock-fd"
    assert "long enough" not in repr(arguments)
    descriptor = int(arguments[-1])
    assert os.readlink(f"/proc/self/fd/{descriptor}").startswith("/memfd:limpet-unlock")
    os.close(descriptor)


def test_a_passphrase_that_nobody_asked_for_is_refused(executed, monkeypatch):
    monkeypatch.delenv("LIMPET_KEYS_SOURCE", raising=False)
    result = invoke("--passphrase-fd", "0")
    assert result.exit_code == 2
    assert "needs keys.source = passphrase; it is file" in result.stderr
    assert executed == []


def test_an_interpreter_that_is_gone(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    result = invoke()
    assert result.exit_code == 6
    assert "can't start /nowhere/python: No such file or directory" in result.stderr


def test_the_node_keeps_what_it_understands_of_the_environment():
    from limpet.cli.up import node_environment

    kept = {"PATH": "/bin", "LIMPET_NODE_NAME": "rock", "LC_ALL": "C", "SSL_CERT_FILE": "/ca.pem"}
    assert node_environment({**kept, "AWS_SECRET_ACCESS_KEY": "s", "LD_PRELOAD": "x"}) == kept
