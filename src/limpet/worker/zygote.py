"""The zygote: a small, single-threaded, preloaded process that forks every other one on request.

A fork of a process that has already run a guest answers its first request in a few milliseconds and
shares nearly all memory; a fresh interpreter takes twenty times as long. The zygote itself never
touches an app's data: it receives descriptors, passes them to the child and closes them.
"""

from __future__ import annotations

import gc
import os
import select
import signal
from typing import TYPE_CHECKING, NoReturn

from limpet.engine import open_engine
from limpet.worker.channel import Channel, close_all
from limpet.worker.child import run_child
from limpet.worker.messages import EngineReady, Exited, MessageError, Spawn, Spawned, SpawnFailed
from limpet.worker.process import set_process_name
from limpet.worker.rehearsal import Rehearsal

if TYPE_CHECKING:
    from limpet.engine.protocol import Engine

_REHEARSALS = 16


def run_zygote(channel: Channel) -> NoReturn:
    """Serve spawn requests until the agent's end of the channel closes."""
    set_process_name("limpet-zygote")
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # the terminal's Ctrl-C is the launcher's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    engine = open_engine("wasmtime")
    rehearsal = Rehearsal(engine)
    for _ in range(_REHEARSALS):
        rehearsal.run()
    channel.send(EngineReady(engine.name, engine.version, engine.artifact_key()))
    gc.collect()
    gc.freeze()
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    poll.register(wake_read, select.POLLIN)
    try:
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == wake_read:
                    os.read(wake_read, 4096)
                    _reap(channel)
                else:
                    _serve_one(channel, engine, rehearsal, (wake_read, wake_write))
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the agent is gone and takes its zygote along


def _serve_one(
    channel: Channel, engine: Engine, rehearsal: Rehearsal, own: tuple[int, int]
) -> None:
    try:
        received = channel.receive()
    except MessageError:
        os._exit(1)  # the agent is the only peer: a broken message means a broken agent
    if received is None:
        os._exit(0)
    message, descriptors = received
    if not isinstance(message, Spawn):
        os._exit(1)
    try:
        pid = os.fork()
    except OSError as error:
        close_all(descriptors)
        channel.send(SpawnFailed(message.worker, f"can't fork: {error.strerror}"))
        return
    if pid == 0:
        signal.set_wakeup_fd(-1)
        close_all(own)
        channel.close()
        run_child(message, descriptors, engine, rehearsal)
    close_all(descriptors)
    channel.send(Spawned(message.worker, pid))


def _reap(channel: Channel) -> None:
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        channel.send(Exited(pid, status, usage.ru_maxrss * 1024))
