"""A Limpet node of this run's own, driven through its API as any client would."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.lab import HELLO, node_environment
from benchmarks.processes import (
    PATIENCE_SECONDS,
    Process,
    descendants,
    free_port,
    name_of,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

_PLATFORM = ("limpet", "limpet-agent", "limpet-zygote")
_APP_PREFIX = "app:"


class Node:
    """A node for a `with` block, its data in `folder`."""

    def __init__(self, folder: Path, *, python: str = sys.executable, is_new: bool = True) -> None:
        folder.mkdir(exist_ok=not is_new)
        self._socket = folder / "s"
        options = ["--data", folder / "data", "--socket", self._socket]
        self._process = Process(
            [python, "-P", "-m", "limpet.node", *options],
            log=folder / "node.log",
            environment=node_environment(),
        )

    def __enter__(self) -> Self:
        self._process.__enter__()
        wait_until(self._is_up, "the node")
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.__exit__(*exception)

    def _is_up(self) -> bool:
        self._process.check()
        with contextlib.suppress(OSError):
            return bool(self.call("GET", "/v1/node")["engine"])
        return False

    def call(self, method: str, path: str, body: bytes | None = None) -> Any:  # noqa: ANN401 - JSON
        """Make one call of the local API. Raises RuntimeError for an answer that is an error."""
        connection = _UnixConnection(str(self._socket))
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            raise RuntimeError(f"{method} {path}: {response.status}: {text[:2000]!r}")
        return json.loads(text or b"{}")

    def deploy(
        self,
        name: str,
        *,
        module: bytes | None = None,
        workers: int = 1,
        idle_timeout: str = "",
        annotations: Mapping[str, str] | None = None,
        port_variable: str = "",
    ) -> int:
        """Run a module, the hello example unless told otherwise; return its port.

        `annotations` are further ones; `port_variable` tells the guest its port.
        """
        module = HELLO.read_bytes() if module is None else module
        digest = "sha256:" + hashlib.sha256(module).hexdigest()
        self.call("PUT", f"/v1/modules/{digest}", module)
        port = free_port()
        chosen = {"limpet.dev/workers": str(workers), **(annotations or {})}
        if idle_timeout:
            chosen["limpet.dev/idle-timeout"] = idle_timeout
        manifest = _deployment(name, port, chosen, port_variable)
        request = {"objects": [{"object": manifest, "digest": digest}]}
        self.call("POST", "/v1/apply", json.dumps(request).encode())
        return port

    def app(self, name: str) -> Any:  # noqa: ANN401 - an AppStatus of docs/api.md
        """The app's status."""
        return self.call("GET", f"/v1/apps/default/{name}")

    def wait_for(self, name: str, phase: str, *, workers: int) -> None:
        """Wait until the app is in this phase with this many processes."""

        def is_there() -> bool:
            status = self.app(name)
            self._process.check()
            return status["phase"] == phase and len(self._worker_pids(status)) == workers

        wait_until(is_there, f"app {name} to be {phase}")

    def workers(self, name: str) -> list[int]:
        """The numbers of the app's processes."""
        return self._worker_pids(self.app(name))

    @staticmethod
    def _worker_pids(status: Any) -> list[int]:  # noqa: ANN401
        return [worker["pid"] for worker in status["workers"] if worker["pid"]]

    @property
    def processes(self) -> list[int]:
        """Launcher, agent, zygote and all apps."""
        return [self._process.pid, *descendants(self._process.pid)]

    def apps(self) -> list[int]:
        """The processes that run apps."""
        return [pid for pid in self.processes if name_of(pid).startswith(_APP_PREFIX)]

    def platform(self) -> dict[str, list[int]]:
        """All other processes by name: launcher, agent, zygote, and what waits for work."""
        found: dict[str, list[int]] = {name: [] for name in _PLATFORM}
        for pid in self.processes:
            name = name_of(pid)
            if not name.startswith(_APP_PREFIX):
                found.setdefault(name, []).append(pid)
        assert all(found[name] for name in _PLATFORM), f"the node's processes are {found}"
        return found


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("node", timeout=PATIENCE_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_SECONDS)
        self.sock.connect(self._path)


def _deployment(
    name: str, port: int, annotations: dict[str, str], port_variable: str
) -> dict[str, Any]:
    workers = int(annotations["limpet.dev/workers"])
    container = {
        "name": name,
        "image": "./hello.wasm",
        "ports": [{"containerPort": port}],
        # As much as the machine has: what is measured is the cost, not the limit.
        "resources": {"limits": {"cpu": str(max(2, workers)), "memory": "64Mi"}},
        "env": [{"name": port_variable, "value": str(port)}] if port_variable else [],
    }
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": {"containers": [container]},
            },
        },
    }
