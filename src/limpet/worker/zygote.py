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

from limpet.engine import DEFAULT_ENGINE, open_engine
from limpet.errors import UnavailableError
from limpet.linux.namespaces import fresh_pid_namespace
from limpet.linux.process import drop_bounding_set, set_process_name
from limpet.worker.channel import Channel, close_all
from limpet.worker.child import run_child
from limpet.worker.immortal import immortalise
from limpet.worker.messages import (
    EngineMissing,
    EngineReady,
    Exited,
    MessageError,
    Spawn,
    Spawned,
    SpawnFailed,
)
from limpet.worker.rehearsal import Rehearsal
from limpet.worker.sandbox import Wall, prepare, survey

if TYPE_CHECKING:
    from limpet.engine.protocol import Engine

_REHEARSALS = 16


def refuse(channel: Channel, error: UnavailableError) -> NoReturn:
    """Tell the agent that there is no such engine here, and end."""
    channel.send(EngineMissing(str(error)[:2000]))
    os._exit(0)


def run_zygote(channel: Channel, engine_name: str, library: str | None = None) -> NoReturn:
    """Serve spawn requests until the agent's end of the channel closes.

    Where there is no such engine, say so and end.
    """
    is_default = engine_name == DEFAULT_ENGINE
    set_process_name("limpet-zygote" if is_default else f"limpet-{engine_name}")
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # the terminal's Ctrl-C is the launcher's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        engine = open_engine(engine_name, library=library)
    except UnavailableError as error:
        refuse(channel, error)
    rehearsal = Rehearsal(engine)
    for _ in range(_REHEARSALS):
        rehearsal.run()
    forge = Forge(engine, rehearsal)
    walls = tuple(sorted(forge.walls))
    channel.send(EngineReady(engine.name, engine.version, engine.artifact_key(), walls))
    gc.collect()
    immortalise()
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
                    _serve_one(channel, forge, (wake_read, wake_write))
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the agent is gone and takes its zygote along


class Forge:
    """Forks children, each into a pid namespace of its own, and knows what to give them."""

    def __init__(self, engine: Engine, rehearsal: Rehearsal) -> None:
        self._engine = engine
        self._rehearsal = rehearsal
        self._knows_components = False
        self.walls = survey()
        if Wall.USER in self.walls:
            drop_bounding_set()  # once for all children: none of them ever executes a program
        self._namespace = -1
        if Wall.NAMESPACES in self.walls:
            self._namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        prepare()

    def prepare_components(self) -> None:
        """Load what components need, once: most nodes never have any."""
        if not self._knows_components:
            self._knows_components = True
            self._engine.prepare_components()

    def fork(self) -> int:
        """Fork as os.fork does. Raises OSError."""
        if self._namespace >= 0:
            fresh_pid_namespace(self._namespace)
        return os.fork()

    def become(self, spawn: Spawn, control: int) -> NoReturn:
        """In the child: do what was asked for."""
        if self._namespace >= 0:
            os.close(self._namespace)
        channel = Channel.from_descriptor(control)
        run_child(spawn, channel, self._engine, self._rehearsal, self.walls)


def _serve_one(channel: Channel, forge: Forge, own: tuple[int, int]) -> None:
    try:
        received = channel.receive()
    except MessageError:
        os._exit(1)  # the agent is the only peer: a broken message means a broken agent
    if received is None:
        os._exit(0)
    message, descriptors = received
    if not isinstance(message, Spawn) or len(descriptors) != 1:
        os._exit(1)
    try:
        if message.is_component:
            forge.prepare_components()
        pid = forge.fork()
    except OSError as error:
        close_all(descriptors)
        channel.send(SpawnFailed(message.worker, f"can't fork: {error.strerror}"))
        return
    if pid == 0:
        signal.set_wakeup_fd(-1)
        close_all(own)
        channel.close()
        forge.become(message, descriptors[0])
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
