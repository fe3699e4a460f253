import os

from limpet.node.launcher_link import LauncherLink, explain_status
from limpet.worker.channel import Channel
from limpet.worker.messages import Drop, StartZygote


def test_what_is_told_arrives():
    mine, theirs = Channel.pair()
    link = LauncherLink(mine)
    link.start_zygote("wasmtime")
    link.drop("127.0.0.1:80")
    theirs.set_blocking(True)
    assert theirs.receive() == (StartZygote("wasmtime"), [])
    assert theirs.receive() == (Drop("127.0.0.1:80"), [])
    mine.close()
    theirs.close()


def test_a_launcher_that_is_gone_is_told_nothing():
    """The agent may be draining by then, which must not end half done."""
    mine, theirs = Channel.pair()
    theirs.close()
    LauncherLink(mine).drop("127.0.0.1:80")
    mine.close()


def test_how_a_process_ended_is_told():
    assert explain_status(9) == "signal 9"
    assert explain_status(os.EX_SOFTWARE << 8) == "exit code 70"
