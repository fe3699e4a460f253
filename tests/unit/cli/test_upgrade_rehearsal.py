"""A rehearsal that is cut short leaves no node and no folder; tests/process/test_upgrade.py has real ones."""

import os
import signal
import subprocess
import sys

import pytest

from limpet.cli.ending import signals_end_this
from limpet.upgrade.layout import Prefix

# In place of `bin/limpet up`: never up, and it says where it was and how it ended.
NODE = """#!{python}
import os, signal, sys
def write(name, text):
    with open("{folder}/part", "w") as file:
        file.write(text)
    os.rename("{folder}/part", "{folder}/" + name)
def stop(number, frame):
    write("stopped", "")
    sys.exit()
signal.signal(signal.SIGTERM, stop)
write("started", str(os.getpid()))
signal.pause()
"""
# `limpet upgrade 0.9.0`, of which only the rehearsal is carried out.
COMMAND = """
import sys
from limpet.cli.main import limpet
from limpet.upgrade import install
install.install = lambda prefix, source, *, rehearse, tell: rehearse(prefix, source.version)
limpet.main(["--socket", sys.argv[1] + "/s", "upgrade", "0.9.0", "--prefix", sys.argv[1] + "/opt"])
"""


def wait_for(condition):
    for _ in range(1000):
        if condition():
            return
        signal.sigtimedwait([], 0.01)
    raise AssertionError("waited in vain")


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture
def command(tmp_path):
    """The command while it rehearses, and the number of the node that it has started."""
    (tmp_path / "tmp").mkdir()
    script = Prefix(tmp_path / "opt").folder("0.9.0") / "bin/limpet"
    script.parent.mkdir(parents=True)
    script.write_text(NODE.format(python=sys.executable, folder=tmp_path))
    script.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, tmp_path],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        stderr=subprocess.PIPE,
    )
    wait_for((tmp_path / "started").exists)
    node = int((tmp_path / "started").read_text())
    yield process, node
    process.kill()
    process.communicate()
    if is_alive(node):
        os.kill(node, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_nothing_behind(command, tmp_path, number):
    process, node = command
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number, said
    assert not is_alive(node)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_kill_leaves_no_node(command, tmp_path):
    process, node = command
    process.kill()
    wait_for(lambda: not is_alive(node))
    assert (tmp_path / "stopped").exists()


def test_what_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_end_this():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
