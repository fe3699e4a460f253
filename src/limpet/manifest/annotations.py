"""The `limpet.dev/` annotations: what Kubernetes has no field for.

They are read from the pod template first, then from the object. Keys under other prefixes belong
to others and are kept as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.manifest.model import HttpOptions, Trigger
from limpet.manifest.module_source import is_digest
from limpet.manifest.names import check_url_path, is_subdomain, is_token
from limpet.manifest.problems import nearest, shown
from limpet.manifest.quantity import (
    QuantityError,
    format_bytes,
    format_duration,
    parse_bytes,
    parse_duration,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limpet.manifest.metadata import Metadata
    from limpet.manifest.problems import Report

PREFIX = "limpet.dev/"
DEFAULT_HTTP_DEADLINE_SECONDS = 30.0

_SERVERS_ONLY = ("workers", "idle-timeout", "listen")
_HTTP_ONLY = (
    "path",
    "methods",
    "queue",
    "max-body",
    "max-response",
    "pass-authorization",
)
_APP_KEYS = (
    "trigger",
    "deadline",
    "digest",
    "description",
    "egress",
    "require",
    "pids",
    "engine",
    "execution",
    "cost-limit",
    *_SERVERS_ONLY,
    *_HTTP_ONLY,
)
ENGINE_CHOICES = ("auto", "wasmtime", "wasmedge")
_MOST_COST = 1 << 53
_BODY_BYTES = 1 << 30
_DAY_SECONDS = 86_400.0
_YEAR_SECONDS = 365 * _DAY_SECONDS
_STANDARD_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What an app's annotations say; `deadline_seconds` is None when they don't."""

    trigger: Trigger
    is_trigger_implied: bool
    engine: str
    execution: str
    cost_limit: int | None
    workers: int
    pids: int
    deadline_seconds: float | None
    digest: str | None
    http: HttpOptions


class Annotations:
    """The `limpet.dev/` keys of some metadata, the first one winning, with their positions."""

    def __init__(self, report: Report, *sources: Metadata) -> None:
        self._report = report
        self._found: dict[str, tuple[Metadata, str]] = {}
        for source in sources:
            for key, value in source.annotations.items():
                if key.startswith(PREFIX):
                    self._found.setdefault(key.removeprefix(PREFIX), (source, value))

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def get(self, name: str) -> str | None:
        found = self._found.get(name)
        return None if found is None else found[1]

    def problem(self, name: str, why: str) -> None:
        source = self._found[name][0]
        self._report.add((*source.path, "annotations", PREFIX + name), why)

    def flag(self, name: str) -> bool:
        text = self.get(name)
        if text is not None and text not in {"true", "false"}:
            self.problem(name, f'must be "true" or "false", not {shown(text)}')
        return text == "true"

    def nearest(self, word: str, known: Iterable[str]) -> str:
        """`; did you mean x?`, or nothing."""
        return self._report.nearest(word, known)

    def integer(self, name: str, *, default: int, maximum: int, minimum: int = 1) -> int:
        text = self.get(name)
        if text is None:
            return default
        is_number = text.isascii() and text.isdigit() and len(text) <= len(str(maximum))
        if not is_number or not minimum <= int(text) <= maximum:
            bounds = f"{minimum} and {maximum}"
            self.problem(name, f"must be a number between {bounds}, not {shown(text)}")
            return default
        return int(text)

    def size(self, name: str, *, default: int, minimum: int) -> int:
        text = self.get(name)
        if text is None:
            return default
        try:
            size = parse_bytes(text)
        except QuantityError as error:
            self.problem(name, str(error))
            return default
        if not minimum <= size <= _BODY_BYTES:
            limit = format_bytes(_BODY_BYTES)
            self.problem(name, f"{shown(text)} is not between {minimum} and {limit}")
            return default
        return size

    def duration(self, name: str, *, maximum: float, is_zero_allowed: bool) -> float | None:
        text = self.get(name)
        if text is None:
            return None
        try:
            seconds = parse_duration(text)
        except QuantityError as error:
            self.problem(name, str(error))
            return None
        if seconds > maximum or (seconds < 0.001 and not (is_zero_allowed and seconds == 0)):
            longest = format_duration(maximum)
            self.problem(name, f"{shown(text)} is not between 1ms and {longest}")
            return None
        return seconds


def check_annotation_names(report: Report, kind: str, metadata: Metadata) -> None:
    """Refuse `limpet.dev/` keys that `kind` does not have."""
    is_app = kind in {"Deployment", "Pod", "Job"}
    known = [PREFIX + name for name in (_APP_KEYS if is_app else ("description",))]
    for key in metadata.annotations:
        if not key.startswith(PREFIX) or key in known:
            continue
        if key.removeprefix(PREFIX) in _APP_KEYS:
            why = f"has no meaning on a {kind}; it belongs to a Deployment, Pod or Job"
        else:
            why = "unknown annotation" + report.nearest(key, known)
        report.add((*metadata.path, "annotations", key), why)


def parse_options(annotations: Annotations, *, kind: str, has_ports: bool) -> Options:
    """The options of an app. Without a trigger, ports or an address to listen on make it http."""
    trigger = _parse_trigger(annotations, kind=kind, has_ports=has_ports)
    if trigger is not Trigger.HTTP:
        _refuse_http_only(annotations, kind, trigger)
    workers = annotations.integer("workers", default=1, maximum=64)
    deadline_seconds = annotations.duration(
        "deadline",
        maximum=_DAY_SECONDS if trigger is Trigger.HTTP else _YEAR_SECONDS,
        is_zero_allowed=False,
    )
    digest = annotations.get("digest")
    if digest is not None and not is_digest(digest):
        annotations.problem("digest", "must be sha256: and 64 lower-case hexadecimal digits")
        digest = None
    return Options(
        trigger=trigger,
        is_trigger_implied="trigger" not in annotations,
        engine=_parse_engine(annotations),
        execution=_parse_execution(annotations),
        cost_limit=_parse_cost_limit(annotations),
        workers=workers,
        pids=annotations.integer("pids", default=64, minimum=8, maximum=4096),
        deadline_seconds=deadline_seconds,
        digest=digest,
        http=_parse_http(annotations),
    )


def _parse_trigger(annotations: Annotations, *, kind: str, has_ports: bool) -> Trigger:
    text = annotations.get("trigger")
    if text is not None and text not in set(Trigger):
        hint = nearest(text, Trigger) if len(text) < 64 else ""
        known = ", ".join(Trigger)
        annotations.problem("trigger", f"{shown(text)} is not one of {known}{hint}")
        text = None
    if kind == "Job":
        if text in (Trigger.HTTP, Trigger.SOCKET):
            annotations.problem("trigger", "a Job runs once and serves nobody; use a Deployment")
        return Trigger.COMMAND
    if text is not None:
        return Trigger(text)
    return Trigger.HTTP if has_ports or "listen" in annotations else Trigger.COMMAND


def _refuse_http_only(annotations: Annotations, kind: str, trigger: Trigger) -> None:
    cure = "" if kind == "Job" else "; add limpet.dev/trigger: http or a container port"
    for name in _HTTP_ONLY:
        if name in annotations:
            annotations.problem(name, f"has a meaning for http apps only{cure}")
    for name in _SERVERS_ONLY:
        if name in annotations and trigger is Trigger.COMMAND:
            annotations.problem(name, f"has a meaning for apps that serve only{cure}")


def _parse_engine(annotations: Annotations) -> str:
    text = annotations.get("engine") or "auto"
    if text not in ENGINE_CHOICES:
        hint = nearest(text, ENGINE_CHOICES) if len(text) < 64 else ""
        annotations.problem(
            "engine", f"{shown(text)} is not one of {', '.join(ENGINE_CHOICES)}{hint}"
        )
        return "auto"
    return text


def _parse_execution(annotations: Annotations) -> str:
    text = annotations.get("execution") or ""
    if text not in ("", "ahead-of-time", "interpreter"):
        annotations.problem("execution", f"{shown(text)} is not ahead-of-time or interpreter")
        return ""
    return text


def _parse_cost_limit(annotations: Annotations) -> int | None:
    if "cost-limit" not in annotations:
        return None
    return annotations.integer("cost-limit", default=1, maximum=_MOST_COST)


def _parse_http(annotations: Annotations) -> HttpOptions:
    defaults = HttpOptions()
    idle_seconds = annotations.duration("idle-timeout", maximum=_YEAR_SECONDS, is_zero_allowed=True)
    return HttpOptions(
        path=_parse_path(annotations, defaults.path),
        methods=_parse_methods(annotations),
        listen=_parse_listen(annotations),
        queue=annotations.integer("queue", default=defaults.queue, maximum=65_536),
        max_body_bytes=annotations.size("max-body", default=defaults.max_body_bytes, minimum=0),
        max_response_bytes=annotations.size(
            "max-response", default=defaults.max_response_bytes, minimum=1
        ),
        idle_timeout_seconds=idle_seconds or None,
        passes_authorization=annotations.flag("pass-authorization"),
    )


def _parse_path(annotations: Annotations, default: str) -> str:
    text = annotations.get("path")
    if text is None:
        return default
    why = check_url_path(text)
    if why is not None:
        annotations.problem("path", why)
        return default
    return text


def _parse_methods(annotations: Annotations) -> tuple[str, ...]:
    text = annotations.get("methods")
    if text is None:
        return ()
    methods: list[str] = []
    for method in (part.strip() for part in text[:4096].split(",")):
        if not is_token(method):
            annotations.problem("methods", f"{shown(method)} is not a method; write GET,POST")
        elif method.upper() in _STANDARD_METHODS and method != method.upper():
            annotations.problem("methods", f"{shown(method)} must be written {method.upper()}")
        elif method in methods:
            annotations.problem("methods", f"{shown(method)} is there twice")
        else:
            methods.append(method)
            continue
        return ()
    return tuple(methods)


def _parse_listen(annotations: Annotations) -> str | None:
    text = annotations.get("listen")
    if text is not None and not is_listen_address(text):
        annotations.problem(
            "listen", f"{shown(text)} is not an address; write 0.0.0.0:8080 or [::]:8080"
        )
        return None
    return text


def is_listen_address(text: str) -> bool:
    """`host:port` or `[v6]:port`; the host is an IP address or a name, port 0 picks a free one."""
    from ipaddress import AddressValueError, IPv4Address, IPv6Address

    host, colon, port = text.rpartition(":")
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535
    if not colon or not is_port or len(host) > 253 or "%" in host:
        return False
    try:
        if host.startswith("[") and host.endswith("]"):
            IPv6Address(host[1:-1])
        elif host.replace(".", "").isdigit():
            IPv4Address(host)
        else:
            return is_subdomain(host)
    except AddressValueError:
        return False
    return True
