"""What a forked process does: take its role, its descriptors and its configuration, and never return.

Roles: `app` runs one app; `spare` is an `app` that goes through the motions of a first request while it
waits: what that touches becomes its own copy of the zygote's memory, which is most of what a cold start
would spend its time on. `compile` turns a module into an artifact, `fetch` downloads one, `router` is the
ingress. Each raises its walls (`limpet.worker.sandbox`) around the moment when it is assigned its work: a
configuration and the role's own descriptors.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import signal
import socket
import sys
import time
import traceback
from typing import TYPE_CHECKING, NoReturn

from limpet.engine.protocol import Limits, ModuleError, Outcome, OutcomeKind, Preopen
from limpet.errors import LimpetError
from limpet.linux.landlock import Access
from limpet.linux.process import set_process_name
from limpet.trigger.command import CommandTrigger
from limpet.trigger.http import HttpTrigger
from limpet.worker.config import (
    CompileConfig,
    FetchConfig,
    RouterConfig,
    WorkerConfig,
    read_config,
)
from limpet.worker.loop import READ, Loop
from limpet.worker.messages import (
    Assign,
    Compiled,
    Drain,
    Failed,
    Finished,
    MessageError,
    Notice,
    ProbeRequest,
    ProbeResult,
    Ready,
    Spawn,
    Stats,
    StatsRequest,
)
from limpet.worker.sandbox import APP, COMPILE, FETCH, ROLES, ROUTER, Sandbox

if TYPE_CHECKING:
    from limpet.engine.protocol import Engine
    from limpet.worker.channel import Channel
    from limpet.worker.rehearsal import Rehearsal
    from limpet.worker.sandbox import Wall

_MAX_EXIT_CODE = 255
_ORPHAN_SECONDS = 5.0
_INTERNAL_FAILURE = 70  # EX_SOFTWARE of sysexits.h


def run_child(
    spawn: Spawn,
    channel: Channel,
    engine: Engine,
    rehearsal: Rehearsal,
    walls: frozenset[Wall],
) -> NoReturn:
    """Do the role's work and exit. A defect ends up in the app's log, never in the zygote."""
    code = _INTERNAL_FAILURE
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        code = _run_role(spawn, channel, engine, rehearsal, Sandbox(walls, spawn.uid))
    except BrokenPipeError:
        code = 1  # the agent has gone, and nobody else waits for what this was to say
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _run_role(
    spawn: Spawn, channel: Channel, engine: Engine, rehearsal: Rehearsal, sandbox: Sandbox
) -> int:
    """Retire, wait for the work, seal, do it."""
    role = ROLES["app" if spawn.role == "spare" else spawn.role]
    set_process_name("limpet-ingress" if role is ROUTER else f"limpet-{spawn.role}")
    readable: tuple[int, ...] = ()
    if role is FETCH:
        from limpet.registry.fetch import equip, fetch_module

        equipment = equip()
        readable = equipment.directories
    elif role is ROUTER:
        from limpet.ingress.router import allow_descriptors, run_router

        allow_descriptors()
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    sandbox.retire(role)
    if spawn.role == "spare":
        rehearsal.run()
    received = channel.receive()
    started_at = time.monotonic()
    if received is None or not isinstance(received[0], Assign):
        return 0
    config, *descriptors = received[1]
    if role is APP:
        settings = read_config(config, WorkerConfig)
        os.close(config)
        app = _App(channel, Loop(), settings, descriptors, engine, started_at, null)
        sandbox.seal(role, app.grants())
        return app.run()
    sandbox.seal(role, [(directory, Access.READ) for directory in readable])
    if role is COMPILE:
        return _compile(channel, read_config(config, CompileConfig), descriptors, engine)
    if role is FETCH:
        return fetch_module(channel, read_config(config, FetchConfig), descriptors[0], equipment)
    return run_router(channel, read_config(config, RouterConfig), descriptors)


def _compile(
    channel: Channel, config: CompileConfig, descriptors: list[int], engine: Engine
) -> int:
    module_file, artifact_file = descriptors
    module = os.pread(module_file, os.fstat(module_file).st_size, 0)
    digest = f"sha256:{hashlib.sha256(module).hexdigest()}"
    if digest != config.digest:
        text = f"the stored module is {digest}, not {config.digest}; apply the app again"
        channel.send(Failed("DigestMismatch", text, False))
        return 1
    try:
        artifact, info = engine.compile_module(module)
        view = memoryview(artifact)
        while view:
            view = view[os.write(artifact_file, view) :]
        os.fsync(artifact_file)
    except ModuleError as error:
        channel.send(Failed("InvalidModule", str(error), False))
        return 1
    except LimpetError as error:
        channel.send(Failed(error.reason, str(error), error.is_retryable))
        return 1
    except OSError as error:
        channel.send(Failed("ArtifactNotWritten", f"can't write the artifact: {error}", True))
        return 1
    channel.send(Compiled(info.imports[:256], info.exports[:256], info.memory_bytes))
    return 0


class _App:
    """One app's worker, from its assignment on."""

    def __init__(
        self,
        channel: Channel,
        loop: Loop,
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
        self._loop = loop
        self._code = 0
        self._is_draining = False
        self._http: HttpTrigger | None = None
        self._command: CommandTrigger | None = None
        self._null = null
        artifact, stdout, stderr, *rest = descriptors
        self._artifact = artifact
        self._listeners = [socket.socket(fileno=number) for number in rest[: config.listeners]]
        self._preopens = [
            Preopen(path.encode(), descriptor, is_read_only)
            for (path, is_read_only), descriptor in zip(
                config.preopens, rest[config.listeners :], strict=True
            )
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
                self._artifact, limits=Limits(memory_bytes=config.memory_bytes)
            )
        except LimpetError as error:
            self._channel.send(Finished("LoadFailed", 1, str(error)[:2000], 0))
            return 1
        os.close(self._artifact)
        self._loop.register(self._channel.fileno(), READ, self._on_control)
        if config.trigger == "http":
            self._http = HttpTrigger(
                self._loop,
                program,
                config,
                listeners=self._listeners,
                preopens=self._preopens,
                settings=config.http_settings(),
                on_drained=self._loop.stop,
                log=_log,
            )
            self._http.start()
            if config.idle_timeout_seconds:
                self._watch_idleness(config.idle_timeout_seconds)
        else:
            self._command = CommandTrigger(
                self._loop,
                program,
                config,
                preopens=self._preopens,
                on_finished=self._on_command_finished,
            )
            self._command.start()
        gc.freeze()  # what lives now lives on: collecting it would only unshare its pages
        self._send(Ready((time.monotonic() - self._started_at) * 1e3))
        self._loop.run()
        return self._code

    def _on_control(self, _events: int) -> None:
        try:
            received = self._channel.receive()
        except MessageError as error:
            _log(f"limpet: ending: the agent sent {error}")
            received = None
        if received is None:
            self._on_orphaned()
            return
        message = received[0]
        if isinstance(message, Drain):
            self._drain()
        elif isinstance(message, StatsRequest):
            self._send(self._stats())
        elif isinstance(message, ProbeRequest):
            self._probe(message)

    def _on_orphaned(self) -> None:
        """The agent is gone. The next one starts a worker of its own; until then clients are served.

        Not so with a volume to write to, which two workers of different agents must not share, and
        not for a command, which the next agent runs again.
        """
        self._loop.unregister(self._channel.fileno())
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
        http = self._http
        assert http is not None, "only http apps scale to zero"

        def check() -> None:
            idle = time.monotonic() - http.last_request_at
            if idle >= seconds and not http.in_flight and not http.queued:
                self._send(Notice("Idle", ""))
                self._loop.call_later(seconds, check)
            else:
                self._loop.call_later(max(seconds - idle, 0.05), check)

        self._loop.call_later(seconds, check)

    def _stats(self) -> Stats:
        http = self._http
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

    def _send(self, message: Finished | Notice | ProbeResult | Ready | Stats) -> None:
        """Tell the agent. When it is gone there is nobody to tell, and EOF says so to the loop."""
        try:
            self._channel.send(message)
        except (BrokenPipeError, ConnectionError):
            return


def _log(line: str) -> None:
    """Write a line of the platform's own to the app's log."""
    with contextlib.suppress(BrokenPipeError):  # the agent has gone: clients are served on
        os.write(2, line.encode("utf-8", "replace") + b"\n")
