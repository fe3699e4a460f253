"""Probe: how the device asks an app whether it is well. Over HTTP or TCP, or by calling a function that
the module exports; never by a process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.manifest.fields import exactly_one
from limpet.manifest.model import Probe
from limpet.manifest.names import check_port_name, check_url_path, is_token
from limpet.manifest.problems import shown

if TYPE_CHECKING:
    from collections.abc import Collection

    from limpet.manifest.fields import Fields

_HANDLERS = ("httpGet", "tcpSocket", "exec")
_EXPORT_COMMAND = "wasm-export"
_LONGEST_NAME = 128
_HOST_REFUSAL = "a probe asks the app itself and nobody else"
_REFUSALS = {
    "grpc": "gRPC probes are not built yet; use httpGet, tcpSocket or exec",
    "terminationGracePeriodSeconds": "the pod's terminationGracePeriodSeconds holds for probes too",
}


def parse_probe(container: Fields, name: str, port_names: Collection[str]) -> Probe | None:
    """The probe in the container's field `name`; named ports must be among `port_names`."""
    if name not in container:
        container.accept(name)
        return None
    fields = container.mapping(name)
    handler = None if "grpc" in fields else exactly_one(fields, _HANDLERS)
    is_export = handler == "exec"
    export = _parse_export(fields.mapping("exec")) if is_export else ""
    path, port, headers = _parse_handler(fields, None if is_export else handler, port_names)
    must_be_one = name != "readinessProbe"
    probe = Probe(
        path=path,
        port=port,
        export=export,
        headers=headers,
        initial_delay_seconds=fields.integer("initialDelaySeconds"),
        period_seconds=fields.integer("periodSeconds", default=10, minimum=1),
        timeout_seconds=fields.integer("timeoutSeconds", default=1, minimum=1),
        success_threshold=fields.integer("successThreshold", default=1, minimum=1),
        failure_threshold=fields.integer("failureThreshold", default=3, minimum=1),
    )
    if must_be_one and probe.success_threshold != 1:
        fields.problem("must be 1 for liveness and startup probes", "successThreshold")
    fields.accept(*_HANDLERS)
    fields.close(_REFUSALS, is_empty_refused=True)
    return probe


def _parse_export(inner: Fields) -> str:
    """`command: [wasm-export, NAME]`: Kubernetes' form for what is called inside of the container."""
    words = inner.texts("command")
    inner.close()
    if len(words) == 2 and words[0] == _EXPORT_COMMAND and is_export_name(words[1]):
        return words[1]
    inner.problem(
        "a module has no processes to start: write [wasm-export, NAME] for a function that the "
        "module exports (not _start), or use httpGet or tcpSocket",
        "command",
    )
    return "_"  # said above: that there is none is not to be said as well


def is_export_name(text: str) -> bool:
    """Whether this can name a function for a probe."""
    return 0 < len(text) <= _LONGEST_NAME and text.isprintable() and text != "_start"


def _parse_handler(
    fields: Fields, handler: str | None, port_names: Collection[str]
) -> tuple[str | None, int | str, tuple[tuple[str, str], ...]]:
    if handler is None:
        return None, 0, ()
    inner = fields.mapping(handler)
    port = read_port(inner, "port", required=True)
    if isinstance(port, str) and port not in port_names:
        inner.problem(f"{shown(port)} is not the name of a port of the container", "port")
    path = None
    headers: tuple[tuple[str, str], ...] = ()
    if handler == "httpGet":
        path = inner.text("path", default="/", check=_check_probe_path) or "/"
        scheme = inner.text("scheme", default="HTTP")
        if scheme not in {"HTTP", ""}:
            inner.problem("only HTTP: TLS ends before it reaches an app", "scheme")
        headers = tuple(_parse_header(header) for header in inner.mappings("httpHeaders"))
    inner.close({"host": _HOST_REFUSAL})
    return path, port, headers


def read_port(fields: Fields, name: str, *, required: bool = False) -> int | str:
    """A port's number or name (IntOrString); 0 when it is absent or, reported, bad."""
    value = fields.raw(name)
    if isinstance(value, str) and value:
        return fields.text(name, check=check_port_name) or 0
    return fields.integer(name, minimum=1, maximum=65_535, required=required)


def _check_probe_path(text: str) -> str | None:
    """Unlike a route, a probe's path may carry a query."""
    if not text:
        return None
    path, _, query = text.partition("?")
    if any(c <= " " or c == "#" or not c.isprintable() for c in query):
        return f"{shown(text)} has a query with spaces or '#'"
    return check_url_path(path)


def _parse_header(fields: Fields) -> tuple[str, str]:
    name = fields.text("name", required=True, check=_check_header_name)
    value = fields.text("value", check=_check_header_value)
    fields.close()
    return name, value


def _check_header_name(text: str) -> str | None:
    return None if is_token(text) else f"{shown(text)} is not a header's name"


def _check_header_value(text: str) -> str | None:
    is_good = all(c == "\t" or " " <= c != "\x7f" for c in text)
    return None if is_good else "must not contain control characters"
