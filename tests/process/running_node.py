"""A real node under test: `python -m limpet.node` in a process group of its own, and what it forked.

Every process of the node carries a mark in its environment, so that a leaked one is found wherever it
ended up. Nothing here sleeps for a fixed time: `wait_for` looks again until its patience ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import itertools
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml
from guests import build_guest

from limpet.api.client import Client
from limpet.engine.wasmedge.library import ROOT_VARIABLE
from limpet.errors import LimpetError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SOURCES = Path(__file__).parents[2] / "src"
# TEST_SLOWNESS: how many times slower than a desktop a machine is, such as an emulated one.
SLOWNESS = float(os.environ.get("TEST_SLOWNESS", "1"))
PATIENCE_SECONDS = 20.0 * SLOWNESS
_MARK = "XDG_LIMPET_TEST_NODE"  # a name that a node keeps of its environment
_ROLES = {
    "launcher": "limpet",
    "agent": "limpet-agent",
    "zygote": "limpet-zygote",
    "wasmedge": "limpet-wasmedge",
}
_APP_KINDS = ("Deployment", "Pod", "Job")
ENGINE = "limpet.dev/engine"

Json = dict[str, Any]


def wait_for(condition: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """Return the condition's first true value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.01)


def name_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZX"


def pss_bytes(pid: int) -> int:
    """Return a process's share of memory; 0 when it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


@dataclass
class Answer:
    """One HTTP response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def variables(self) -> dict[str, str]:
        """Return the environment that the echo guest printed."""
        lines = self.body.split(b"\n\n", 1)[0].decode().splitlines()
        return dict(line.split("=", 1) for line in lines if not line.startswith("arg "))


class RunningNode:
    """A node and the calls that tests make to it."""

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.engine: str | None = None  # for apps that name none; None leaves it to the node
        self.data = directory / "data"
        self.socket_path = directory / "s"
        self.mark = secrets.token_hex(8)
        self.client = Client(self.socket_path, timeout_seconds=PATIENCE_SECONDS)
        self.process: subprocess.Popen[bytes] | None = None
        self._environment = dict(environment or {})
        self._log = directory / "node.log"
        self._sockets: list[socket.socket] = []

    # Life

    def command(self) -> list[str]:
        options = ["--data", self.data, "--socket", self.socket_path, "--name", "test"]
        return [sys.executable, "-P", "-m", "limpet.node", *map(str, options)]

    def environment(self) -> dict[str, str]:
        inherited = dict(os.environ)
        inherited.pop(ROOT_VARIABLE, None)  # a node has WasmEdge when its test says so
        return {
            **inherited,
            "PYTHONPATH": str(SOURCES),
            "MALLOC_ARENA_MAX": "1",
            _MARK: self.mark,
            **self._environment,
        }

    def start(self, *, is_awaited: bool = True) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                env=self.environment(),
                stdout=log,
                stderr=log,
                process_group=0,
            )
        if is_awaited:
            self.wait_up()

    def wait_up(self) -> None:
        def is_up() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.output()
            with contextlib.suppress(LimpetError):
                return bool(self.client.node()["engine"])
            return False

        wait_for(is_up, "the node")

    def stop(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Stop as systemd does, and see that nothing is left and nothing went wrong."""
        assert self.process is not None
        self.process.terminate()
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            self.process = None
        wait_for(lambda: not self.pids(), "the end of what the node had started", 5)
        assert code == 0, self.output()
        assert "Traceback" not in self.output(), self.output()

    def kill(self) -> None:
        """End every process of the node at once, as a power cut does."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if process is not None:
            process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def output(self) -> str:
        """Return what the node itself printed."""
        return self._log.read_text("utf-8", "replace")

    # Processes

    def pids(self, role: str | None = None) -> list[int]:
        """Return the node's live processes; `role` is launcher, agent, zygote, wasmedge or an app's name.

        The zygote is the default engine's; the other engine's has its name. Beside those there may be
        a spare, which waits to become an app's worker.
        """
        wanted = None if role is None else _ROLES.get(role, f"app:{role}"[:15])
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if f"{_MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                        found.append(int(entry.name))
        return [p for p in found if is_alive(p) and wanted in (None, name_of(p))]

    def busy_pids(self) -> list[int]:
        """Return the processes that do something for an app."""
        resting = {*_ROLES.values(), "limpet-spare"}
        return [pid for pid in self.pids() if name_of(pid) not in resting]

    def pid(self, role: str) -> int:
        """Return the one process of a role; a new fork has its parent's name for a moment."""
        found: list[int] = []

        def is_one() -> bool:
            found[:] = self.pids(role)
            return len(found) == 1

        wait_for(is_one, f"one {role}")
        return found[0]

    # Objects

    def upload(self, module: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(module).hexdigest()
        self.client.upload_module(digest, io.BytesIO(module), size_bytes=len(module))
        return digest

    def apply(self, *documents: str | Json) -> list[Json]:
        """Apply YAML texts or objects; an image `./GUEST.wasm` is that guest's module."""
        objects: list[Json] = []
        for document in documents:
            objects += yaml.safe_load_all(document) if isinstance(document, str) else [document]
        return self.client.apply([self._item(item) for item in objects])

    def place(self, module: bytes, *objects: Json) -> None:
        """Apply objects; the apps among them run this module."""
        digest = "sha256:" + hashlib.sha256(module).hexdigest()
        if not self.client.has_module(digest):
            self.upload(module)
        self.client.apply(
            [
                {"object": self._choose_engine(item), "digest": digest}
                if item["kind"] in _APP_KINDS
                else {"object": item}
                for item in objects
            ]
        )

    def _choose_engine(self, item: Json) -> Json:
        if self.engine is not None:
            metadata = _template(item)["metadata"]
            metadata.setdefault("annotations", {}).setdefault(ENGINE, self.engine)
        return item

    def _item(self, item: Json) -> Json:
        if item["kind"] not in _APP_KINDS:
            return {"object": item}
        self._choose_engine(item)
        pod = _template(item)["spec"]
        image = pod["containers"][0]["image"]
        if "://" in image:
            return {"object": item}
        module = build_guest(Path(image).stem).read_bytes()
        digest = "sha256:" + hashlib.sha256(module).hexdigest()
        if not self.client.has_module(digest):
            self.upload(module)
        return {"object": item, "digest": digest}

    def delete(self, kind: str, name: str) -> None:
        self.client.delete_object(kind=kind, namespace="default", name=name)

    def delete_everything(self) -> None:
        """Delete every object, apps before what they use, and wait for the apps' end."""
        objects = self.client.objects()
        for item in sorted(objects, key=lambda item: item["kind"] not in _APP_KINDS):
            self.delete(item["kind"], item["name"])
        wait_for(lambda: not self.client.apps(), "the end of all apps", 40)

    def status(self, name: str) -> Json:
        return self.client.app(namespace="default", name=name)

    def is_gone(self, name: str) -> bool:
        try:
            self.status(name)
        except NotFoundError:
            return True
        return False

    def wait_phase(self, name: str, phase: str, seconds: float = PATIENCE_SECONDS) -> Json:
        """Return the status once the app has that phase."""
        status: Json = {}

        def has_phase() -> bool:
            nonlocal status
            status = self.status(name)
            return status["phase"] == phase

        try:
            wait_for(has_phase, f"{name} to be {phase}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {status}") from error
        return status

    def wait_reason(self, name: str, reason: str) -> Json:
        """Return the status once the app has that reason."""
        wait_for(lambda: self.status(name)["reason"] == reason, f"{name}'s reason {reason}")
        return self.status(name)

    def wait_ready(self, name: str, *, generation: int = 0) -> Json:
        """Return the status once every worker that is wanted is there, and no other."""

        def is_ready() -> bool:
            status = self.status(name)
            live = [worker for worker in status["workers"] if worker["pid"]]
            return status["generation"] >= generation and (
                status["desired"] == status["ready"] == len(live)
            )

        try:
            wait_for(is_ready, f"{name} to be ready")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.status(name)}") from error
        return self.status(name)

    def events(self, name: str | None = None, reason: str | None = None) -> list[Json]:
        found = self.client.events(name=name, limit=1000)
        return [event for event in found if reason in (None, event["reason"])]

    def logs(self, name: str, **query: object) -> list[str]:
        lines = self.client.log_lines(namespace="default", name=name, query=query)
        return [line.decode().removesuffix("\n") for line in lines]

    # Requests

    def port(self, name: str) -> int:
        endpoint = wait_for(lambda: self.status(name)["endpoints"], f"{name}'s endpoint")[0]
        return int(endpoint.rpartition(":")[2])

    def request(
        self,
        name: str,
        path: str = "/",
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask an app over a connection of its own."""
        return ask(self.port(name), path, method=method, body=body, headers=headers)

    def exchange(self, name: str, data: bytes) -> bytes:
        """Send raw bytes and return everything until the app closes."""
        with socket.create_connection(("127.0.0.1", self.port(name)), PATIENCE_SECONDS) as client:
            client.sendall(data)
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while data := client.recv(65536):
                    received += data
            return received


def _template(item: Json) -> Json:
    """Return what describes an app's pods."""
    template: Json = item if item["kind"] == "Pod" else item["spec"]["template"]
    return template


def ask(
    port: int,
    path: str = "/",
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    seconds: float = PATIENCE_SECONDS,
) -> Answer:
    """Send one request to a local port over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request(method, path, body, headers=dict(headers or {}))
        response = connection.getresponse()
        named = {key.lower(): value for key, value in response.getheaders()}
        return Answer(response.status, named, response.read())
    finally:
        connection.close()


@dataclass
class Load:
    """Clients that ask without a pause, a new connection for each request."""

    port: int
    path: str = "/"
    clients: int = 4
    pause_seconds: float = 0.0
    ended_at: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    bodies: set[bytes] = field(default_factory=set)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._run) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        self.wait_more(5)
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                answer = ask(self.port, self.path)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                time.sleep(0.002)  # a refusal comes at once: leave others some processor
                continue
            if answer.status == 200:
                self.ended_at.append(time.monotonic())
                self.bodies.add(answer.body)
            else:
                self.failures.append(f"{answer.status} {answer.body!r}")
            if self.pause_seconds:
                self._stopping.wait(self.pause_seconds)

    def wait_more(self, count: int = 20) -> None:
        """Wait until so many more requests have succeeded."""
        goal = len(self.ended_at) + count
        wait_for(lambda: len(self.ended_at) >= goal, f"{count} more answers")

    def outage_seconds(self, since: float) -> float:
        """Return the longest time without an answer from a moment on."""
        times = [since, *sorted(when for when in self.ended_at if when > since)]
        return max((b - a for a, b in itertools.pairwise(times)), default=float("inf"))


def established(port: int) -> int:
    """Count the connections that a local port's clients hold open."""
    lines: Sequence[str] = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return sum(f[1].endswith(f":{port:04X}") and f[3] == "01" for f in fields)
