"""One app's worker, from its assignment on: load the program, let its trigger serve, tell the agent."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

from limpet.engine.protocol import Limits, Outcome, OutcomeKind, Preopen
from limpet.errors import LimpetError
from limpet.linux.landlock import Access
from limpet.linux.process import set_process_name
from limpet.trigger.command import CommandTrigger
from limpet.trigger.http import HttpTrigger
from limpet.trigger.socket import CountingListener, OfferedConnections, SocketTrigger
from limpet.worker.channel import close_all
from limpet.worker.export_probes import ExportProbes
from limpet.worker.loop import READ, Loop
from limpet.worker.messages import (
    Adopt,
    Connected,
    Drain,
    ExportProbe,
    Finished,
    Message,
    MessageError,
    Notice,
    Offer,
    ProbeRequest,
    ProbeResult,
    Ready,
    Resolved,
    Serve,
    Stats,
    StatsRequest,
)
from limpet.worker.network import WorkerNetwork

if TYPE_CHECKING:
    from limpet.engine.protocol import Engine, Program
    from limpet.worker.channel import Channel
    from limpet.worker.config import WorkerConfig

_MAX_EXIT_CODE = 255
_ORPHAN_SECONDS = 5.0


class AppWorker:
    """Owns the descriptors that came along. `null` is /dev/null, for when nobody reads the log."""

    def __init__(
        self,
        channel: Channel,
        config: WorkerConfig,
        descriptors: list[int],
        engine: Engine,
        started_at: float,
        null: int,
    ) -> None:
        self._started_at = started_at
        self._channel = channel
        self._config = config
        self._engine = engine
        self._loop = Loop()
        self._code = 0
        self._is_draining = False
        self._http: HttpTrigger | None = None
        self._command: CommandTrigger | None = None  # a socket app's, too
        self._null = null
        self._is_ready = False
        self._loaded_after = 0.0  # milliseconds
        self._is_serving = False
        self._export_probes: ExportProbes | None = None
        artifact, stdout, stderr, *rest = descriptors
        self._artifact = artifact
        listeners, directories = rest[: config.listeners], rest[config.listeners :]
        self._listeners: list[socket.socket] = []
        self._own_listeners: list[CountingListener] = []
        if config.trigger == "socket":
            self._own_listeners = [CountingListener(number) for number in listeners]
            if config.waits_for_readiness:
                for listening in self._own_listeners:
                    listening.shut()
        else:
            self._listeners = [socket.socket(fileno=number) for number in listeners]
        # Before the walls are up: a sealed process makes no sockets.
        ports = config.guest_ports if config.trigger == "socket" else ()
        self._offers = {port: OfferedConnections() for port in ports}
        self._network = WorkerNetwork(
            channel,
            [*zip(ports, self._own_listeners, strict=True), *self._offers.items()],
            pump=self._pump,
            on_listen=self._tell_ready,
        )
        self._preopens = [
            Preopen(path.encode(), descriptor, is_read_only)
            for (path, is_read_only), descriptor in zip(config.preopens, directories, strict=True)
        ]
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.close(stdout)
        os.close(stderr)

    def grants(self) -> list[tuple[int, Access]]:
        """What of the device's files the app may reach: the volumes that it was given."""
        return [
            (preopen.descriptor, Access.READ if preopen.is_read_only else Access.WRITE)
            for preopen in self._preopens
        ]

    def run(self) -> int:
        """Load the program, serve until told to stop, return the exit code."""
        config = self._config
        set_process_name(f"app:{config.app.rpartition('/')[2]}")
        signal.signal(signal.SIGTERM, lambda *_: self._drain())
        try:
            program = self._engine.load(
                self._artifact,
                limits=Limits(memory_bytes=config.memory_bytes, cost=config.cost_limit),
            )
        except LimpetError as error:
            self._channel.send(Finished("LoadFailed", 1, str(error)[:2000], 0))
            return 1
        if config.probed_exports:
            self._export_probes = ExportProbes(
                self._loop, self._engine, self._artifact, config, preopens=self._preopens
            )
        else:
            os.close(self._artifact)
        self._loop.register(self._channel.fileno(), READ, self._on_control)
        self._start(program)
        gc.freeze()  # what lives now lives on: collecting it would only unshare its pages
        if config.trigger != "socket":  # which is ready when it listens
            self._tell_ready()
        self._loop.run()
        return self._code

    def _start(self, program: Program) -> None:
        config = self._config
        if config.trigger == "http":
            self._http = HttpTrigger(
                self._loop,
                program,
                config,
                listeners=self._listeners,
                preopens=self._preopens,
                network=self._network,
                settings=config.http_settings(),
                on_drained=self._loop.stop,
                log=_log,
            )
            if not config.waits_for_readiness:
                self._http.start()
        elif config.trigger == "socket":
            self._command = SocketTrigger(
                self._loop,
                program,
                config,
                listeners=self._own_listeners,
                network=self._network,
                preopens=self._preopens,
                on_finished=self._on_command_finished,
            )
            self._command.start()
        else:
            self._command = CommandTrigger(
                self._loop,
                program,
                config,
                network=self._network,
                preopens=self._preopens,
                on_finished=self._on_command_finished,
            )
            self._command.start()
        if config.idle_timeout_seconds and config.trigger != "command":
            self._watch_idleness(config.idle_timeout_seconds)

    def _tell_ready(self) -> None:
        """Say that the app serves; a guest that listens comes here on its own thread."""
        if not self._is_ready:
            self._is_ready = True
            self._loaded_after = (time.monotonic() - self._started_at) * 1e3
            self._tell_loaded()

    def _tell_loaded(self) -> None:
        self._send(Ready(self._loaded_after))

    def _receive(self) -> tuple[Message, list[int]] | None:
        try:
            return self._channel.receive()
        except MessageError as error:
            _log(f"limpet: ending: the agent sent {error}")
            return None

    def _pump(self) -> None:
        """Read one message for a guest that waits on this thread; what isn't for it waits in turn."""
        received = self._receive()
        if received is None:
            self._network.cut_off()  # the loop will see it, too
            return
        message, descriptors = received
        if isinstance(message, Connected | Resolved):
            self._network.on_answer(message, descriptors)
        elif isinstance(message, Adopt):
            self._on_adopted()
        else:  # nothing else comes with descriptors to an app whose guest runs on this thread
            close_all(descriptors)
            self._loop.call_later(0, lambda: self._on_message(message))

    def _on_control(self, _events: int) -> None:
        received = self._receive()
        if received is None:
            self._on_orphaned()
            return
        message, descriptors = received
        if isinstance(message, Connected | Resolved):
            self._network.on_answer(message, descriptors)
        elif isinstance(message, Offer):
            self._offer(message, descriptors)
        else:
            self._on_message(message)

    def _on_message(self, message: Message) -> None:
        if isinstance(message, Drain):
            self._drain()
        elif isinstance(message, Serve):
            self._serve()
        elif isinstance(message, StatsRequest):
            self._send(self._stats())
        elif isinstance(message, ProbeRequest):
            self._probe(message)
        elif isinstance(message, Adopt):
            self._on_adopted()
        elif isinstance(message, ExportProbe):
            self._probe_export(message)

    def _on_adopted(self) -> None:
        """Another agent reads from now on; what the one before it had read and not done is lost."""
        self._network.ask_again()
        if self._is_ready:
            self._tell_loaded()

    def _serve(self) -> None:
        """Let clients in; the agent may say so again."""
        if not self._config.waits_for_readiness or self._is_serving or self._is_draining:
            return
        self._is_serving = True
        if self._http is not None:
            self._http.start()
        for listening in self._own_listeners:
            listening.open_up()

    def _on_orphaned(self) -> None:
        """The node is gone, or an agent died before this worker could be kept for the next one.

        That one starts a worker of its own; until then clients are served.

        Not so with a volume to write to, which two workers of different agents must not share, and
        not for a command, which the next agent runs again.
        """
        self._loop.unregister(self._channel.fileno())
        self._network.cut_off()
        for stream in (1, 2):  # nobody reads the log's pipes any more
            os.dup2(self._null, stream)
        writes = any(not is_read_only for _, is_read_only in self._config.preopens)
        if self._http is not None and not writes:
            self._loop.call_later(_ORPHAN_SECONDS, self._drain)
        else:
            self._drain()

    def _drain(self) -> None:
        if self._is_draining:
            return
        self._is_draining = True
        if self._http is not None:
            self._http.drain()
        elif self._command is not None:
            self._command.stop()
        else:
            self._loop.stop()

    def _on_command_finished(self, outcome: Outcome) -> None:
        is_exit = outcome.kind is OutcomeKind.EXIT
        self._code = min(outcome.exit_code, _MAX_EXIT_CODE) if is_exit else 1
        if not self._is_draining:
            self._send(
                Finished(
                    outcome.kind.value,
                    outcome.exit_code,
                    outcome.message[:2000],
                    outcome.memory_bytes,
                )
            )
        self._loop.stop()

    def _watch_idleness(self, seconds: float) -> None:
        def check() -> None:
            idle = self._idle_seconds()
            if idle >= seconds:
                self._send(Notice("Idle", ""))
                self._loop.call_later(seconds, check)
            else:
                self._loop.call_later(max(seconds - idle, 0.05), check)

        self._loop.call_later(seconds, check)

    def _idle_seconds(self) -> float:
        """How long the app has had nothing to do."""
        if isinstance(self._command, SocketTrigger):
            return self._command.idle_seconds()
        http = self._http
        if http is None or http.in_flight or http.queued:
            return 0.0
        return time.monotonic() - http.last_request_at

    def _stats(self) -> Stats:
        http, command = self._http, self._command
        if isinstance(command, SocketTrigger):
            return Stats(command.requests, 0, 1, 0, command.connections, ())
        if http is None:
            return Stats(0, 0, 1, 0, 0, ())
        return Stats(
            http.requests,
            http.failed,
            http.in_flight,
            http.queued,
            http.connections,
            tuple(http.latency.counts),
        )

    def _probe(self, request: ProbeRequest) -> None:
        if self._http is None:
            self._send(ProbeResult(request.probe, 0, "a command has no http probe"))
            return
        headers = [
            (name.strip(), value.strip())
            for name, _, value in (line.partition(":") for line in request.headers.splitlines())
        ]
        self._http.probe(
            request.path,
            headers,
            lambda status: self._send(ProbeResult(request.probe, status, "")),
        )

    def _probe_export(self, request: ExportProbe) -> None:
        def done(why: str) -> None:
            self._send(ProbeResult(request.probe, 0 if why else 200, why))

        if self._export_probes is None:
            done("the app has no probes of this kind")
        else:
            self._export_probes.run(request.export, request.timeout_seconds, done)

    def _offer(self, offer: Offer, descriptors: list[int]) -> None:
        offered = self._offers.get(offer.port)
        if offered is None or len(descriptors) != 1:
            close_all(descriptors)
            self._send(ProbeResult(offer.probe, 0, f"the app has no port {offer.port}"))
            return
        accepted = ProbeResult(offer.probe, 200, "")
        connection = socket.socket(fileno=descriptors[0])
        if not offered.offer(connection, lambda: self._send(accepted)):
            connection.close()
            self._send(ProbeResult(offer.probe, 0, "the app accepts no connections"))

    def _send(self, message: Finished | Notice | ProbeResult | Ready | Stats) -> None:
        """Tell the agent. When the node is gone there is nobody to tell, and EOF says so to the loop.

        While no agent reads, the channel fills: last words wait, the rest is said again or not missed.
        """
        with contextlib.suppress(BrokenPipeError, ConnectionError):
            if isinstance(message, Finished):
                self._channel.send(message)
            else:
                self._channel.send_at_once(message)


def _log(line: str) -> None:
    """Write a line of the platform's own to the app's log."""
    with contextlib.suppress(BrokenPipeError):  # the agent has gone: clients are served on
        os.write(2, line.encode("utf-8", "replace") + b"\n")
