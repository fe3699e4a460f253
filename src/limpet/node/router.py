"""The ingress router's process as the agent sees it: there while an Ingress exists, told every change."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from limpet.manifest.model import Ingress, Service
from limpet.plan import Listener, PlanError
from limpet.worker.config import RouterConfig, write_config
from limpet.worker.messages import Drain, Message, Routes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from limpet.node.apps import AppRuntime
    from limpet.node.listeners import Listeners
    from limpet.plan import AppKey, Catalog
    from limpet.settings import Settings
    from limpet.worker.supervisor import ExitInfo, Process, Zygote

_ORIGIN = "the ingress router"


class RouterProcess:
    """Starts, feeds and stops the router."""

    def __init__(
        self,
        zygote: Zygote,
        settings: Settings,
        sockets: Listeners,
        record: Callable[[str, str], None],
    ) -> None:
        host, _, port = settings.ingress.listen.rpartition(":")
        self._listener = Listener(host.strip("[]"), int(port), _ORIGIN)
        self._settings = settings
        self._zygote = zygote
        self._sockets = sockets
        self._record = record
        self._process: Process | None = None
        self._table = "[]"
        self._serial = 0
        self._is_wanted = False

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """The router's own listening address, while it is wanted."""
        return (self._listener,) if self._is_wanted else ()

    def update(
        self, ingresses: Sequence[Ingress], catalog: Catalog, apps: Mapping[AppKey, AppRuntime]
    ) -> None:
        """Make the router serve these objects, or end it when there are none."""
        del apps
        self._is_wanted = bool(ingresses)
        if not self._is_wanted:
            self.stop()
            return
        self._table = compile_table(ingresses, catalog)
        if self._process is None:
            self._start()
        else:
            self._process.send(Routes(self._table))

    def _start(self) -> None:
        try:
            listening = self._sockets.open(self._listener)
        except PlanError as error:
            self._record("IngressFailed", str(error))
            return
        self._serial += 1
        config = write_config(RouterConfig(listeners=1, http=asdict(self._settings.http)))
        self._process = self._zygote.spawn(
            f"router-{self._serial}",
            "router",
            [config, listening.fileno()],
            on_message=self._on_message,
            on_exit=self._on_exit,
        )
        os.close(config)
        self._process.send(Routes(self._table))

    def _on_message(self, _process: Process, _message: Message) -> None:
        """The router has nothing to tell but its end."""

    def _on_exit(self, process: Process, info: ExitInfo) -> None:
        if process is not self._process:
            return
        self._process = None
        if self._is_wanted:
            self._record("IngressRestarted", f"the ingress router ended: {info.message or info.reason}")
            self._start()

    def stop(self) -> None:
        """End the router after its requests in flight."""
        self._is_wanted = False
        if self._process is not None:
            self._process.send(Drain())
            self._process = None


def compile_table(ingresses: Sequence[Ingress], catalog: Catalog) -> str:
    """Resolve each path's Service to an address on loopback; the JSON that the router takes.

    Entries are `[host, path, is_exact, target]`, the most specific first: a named host before any
    host, exact before prefix, longer before shorter (Kubernetes' Ingress, "multiple matches").
    """
    entries: list[tuple[str, str, bool, str]] = []
    for ingress in ingresses:
        for path in ingress.paths:
            service = catalog.get(Service, ingress.namespace, path.service)
            target = _target(service, path.port) if service is not None else ""
            entries.append((path.host, path.path, path.is_exact, target))
    entries.sort(key=lambda e: (e[0] == "", e[0].startswith("*"), not e[2], -len(e[1])))
    return json.dumps(entries)


def _target(service: Service, port: int | str) -> str:
    for candidate in service.ports:
        if port in (candidate.port, candidate.name):
            return f"127.0.0.1:{candidate.port}"
    return ""
