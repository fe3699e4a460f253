"""What launcher, agent, zygote and workers say to each other: small, flat, typed.

A message is one JSON object in one packet: its class's name under `type` and its fields. Decoding is
strict because a worker runs hostile code: an unknown type, a missing, surplus or mistyped field is a
`MessageError`, and the receiver ends the peer.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TypeAlias, get_args

from limpet.errors import InvalidInputError
from limpet.telemetry.histogram import BUCKETS

MAX_MESSAGE_BYTES = 64 << 10


class MessageError(InvalidInputError):
    """A packet that is not one of the messages below."""

    reason = "InvalidMessage"


# agent -> zygote


@dataclass(frozen=True, slots=True)
class Spawn:
    """Fork a process, which then waits to be assigned its work. Descriptor: its control socket.

    `uid` is its user and group, where it can have its own. `is_component` has what components need
    loaded before: behind its walls the process could not.
    """

    worker: str
    role: str
    uid: int
    is_component: bool


# zygote -> agent, launcher -> agent


@dataclass(frozen=True, slots=True)
class Spawned:
    """The process exists."""

    worker: str
    pid: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """The kernel refused to fork."""

    worker: str
    message: str


@dataclass(frozen=True, slots=True)
class Exited:
    """A process ended; `status` is wait(2)'s, `peak_bytes` its largest resident size."""

    pid: int
    status: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class EngineReady:
    """The zygote's first words: the engine it has, what artifacts for it depend on, and the walls
    that its children raise around themselves (`limpet.worker.sandbox.Wall`).
    """

    name: str
    version: str
    artifact_key: str
    walls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EngineMissing:
    """The zygote's only words where there is no such engine: it ends, and is not started again."""

    message: str


@dataclass(frozen=True, slots=True)
class ZygoteStarted:
    """An engine's zygote is there; its socket comes along. `restarts` counts those that died before
    it.
    """

    engine: str
    pid: int
    restarts: int
    status: int


# agent -> launcher


@dataclass(frozen=True, slots=True)
class StartZygote:
    """Have a zygote for this engine, from now on; one that is there is left alone."""

    engine: str


@dataclass(frozen=True, slots=True)
class Keep:
    """Hold this listening socket (comes along) for the agent that follows when this one dies."""

    name: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the socket held under this name."""

    name: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Hold this for the agent that follows when this one dies; what comes anew replaces what is held.

    `pid` is a process whose end is to be remembered, or 0; `text` is the agent's own. Descriptors, or
    none to leave those that are held: the agent's end of a worker's control socket, then the read ends
    of its log's pipes.
    """

    name: str
    pid: int
    text: str


@dataclass(frozen=True, slots=True)
class Release:
    """Close and forget what is held under this name."""

    name: str


@dataclass(frozen=True, slots=True)
class TryVersion:
    """Hand over to the launcher of the version that has this interpreter, without an agent."""

    python: str


@dataclass(frozen=True, slots=True)
class ConfirmVersion:
    """The version that was on trial is the current one: never go back."""


@dataclass(frozen=True, slots=True)
class RefuseVersion:
    """The version that is on trial is not healthy: go back, and say why."""

    reason: str


# agent -> worker, and to the other roles


@dataclass(frozen=True, slots=True)
class Adopt:
    """The agent is another one from now on: say Ready again, and ask again what was not answered."""


@dataclass(frozen=True, slots=True)
class Assign:
    """Begin. Descriptors: the role's configuration, then those that its class lists."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Finish what is in flight, take nothing new, exit."""


@dataclass(frozen=True, slots=True)
class Serve:
    """Take clients from now on: the app is ready. For workers that wait for it (WorkerConfig)."""


@dataclass(frozen=True, slots=True)
class StatsRequest:
    """Answer with Stats."""


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """Run one request as a probe; `headers` is `Name: value` lines."""

    probe: int
    path: str
    headers: str
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class ExportProbe:
    """Call an export of the module as a probe. ProbeResult says 200, or 0 and why it failed."""

    probe: int
    export: str
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Offer:
    """A connection, which comes along, from the node's own probe to one of the app's ports.

    ProbeResult, with the same `probe` and status 200, says that the guest has accepted it.
    """

    probe: int
    port: int


@dataclass(frozen=True, slots=True)
class Connected:
    """The connection that was asked for comes along as a descriptor; else `error` says why not, and
    `error_number` (errno.h) says it to the guest.
    """

    request: int
    error: str
    error_number: int


@dataclass(frozen=True, slots=True)
class Resolved:
    """The addresses of the name that was asked for; else `error` says why there are none."""

    request: int
    addresses: tuple[str, ...]
    error: str
    error_number: int


@dataclass(frozen=True, slots=True)
class Routes:
    """The ingress router's new table, as JSON."""

    table: str


# worker -> agent


@dataclass(frozen=True, slots=True)
class Ready:
    """The app is loaded and serving; how long that took since the process was forked."""

    milliseconds: float


@dataclass(frozen=True, slots=True)
class Finished:
    """The process is about to exit: `reason` is an OutcomeKind, or Idle, Drained, LoadFailed."""

    reason: str
    exit_code: int
    message: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters since the worker's start; `latency` is a histogram's counts."""

    requests: int
    failed: int
    in_flight: int
    queued: int
    connections: int
    latency: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.latency) not in (0, BUCKETS) or any(count < 0 for count in self.latency):
            raise MessageError(f"Stats.latency: {BUCKETS} counts or none are expected")


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The HTTP status a probe got; 0 when it was not answered, with the reason in `message`."""

    probe: int
    status: int
    message: str


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a connection out: `protocol` is tcp or udp. Connected answers, with the same `request`."""

    request: int
    host: str
    port: int
    protocol: str

    def __post_init__(self) -> None:
        if self.protocol not in ("tcp", "udp"):
            raise MessageError("Connect.protocol: tcp or udp is expected")
        if not 0 < self.port < 65536 or len(self.host) > 255:
            raise MessageError("Connect: a host and a port are expected")


@dataclass(frozen=True, slots=True)
class Resolve:
    """Look a name up. Resolved answers, with the same `request`."""

    request: int
    host: str

    def __post_init__(self) -> None:
        if len(self.host) > 255:
            raise MessageError("Resolve: a host is expected")


@dataclass(frozen=True, slots=True)
class Compiled:
    """The artifact has been written to its descriptor."""

    imports: tuple[str, ...]
    exports: tuple[str, ...]
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """The module is there: `where` is partial, module (the descriptor of this name has it) or store (the
    node has it already). `manifest` is the digest that an image's reference stands for; `extracted_from` the
    manifest of the image whose layer the module was taken out of, empty where it is a layer or was there.
    """

    digest: str
    size_bytes: int
    manifest: str
    where: str
    extracted_from: str = ""

    def __post_init__(self) -> None:
        if self.where not in ("partial", "module", "store"):
            raise MessageError("Fetched.where: partial, module or store is expected")


@dataclass(frozen=True, slots=True)
class Fetching:
    """How far a download is; `total_bytes` is 0 where nobody has said."""

    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Verified:
    """Which of the keys has signed (empty: none), how many signatures there were, some of the keys.

    Keys are told by their fingerprints.
    """

    signed_by: str
    signatures: int
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """A compile or fetch process gives up."""

    reason: str
    message: str
    is_retryable: bool


@dataclass(frozen=True, slots=True)
class Notice:
    """Something for the app's events."""

    reason: str
    message: str


Message: TypeAlias = (
    Spawn
    | Spawned
    | SpawnFailed
    | Exited
    | EngineReady
    | EngineMissing
    | StartZygote
    | ZygoteStarted
    | Keep
    | Drop
    | Hold
    | Release
    | TryVersion
    | ConfirmVersion
    | RefuseVersion
    | Adopt
    | Assign
    | Connect
    | Connected
    | Resolve
    | Resolved
    | Drain
    | Serve
    | StatsRequest
    | ProbeRequest
    | ExportProbe
    | Offer
    | Routes
    | Ready
    | Finished
    | Stats
    | ProbeResult
    | Compiled
    | Fetched
    | Fetching
    | Verified
    | Failed
    | Notice
)

_TYPES: dict[str, type[Message]] = {kind.__name__: kind for kind in get_args(Message)}
_FIELDS = {
    name: {entry.name: str(entry.type) for entry in fields(kind)} for name, kind in _TYPES.items()
}
_MAX_INT = 1 << 53


def encode_message(message: Message) -> bytes:
    """Encode for `decode_message`. Raises `MessageError` when it is over MAX_MESSAGE_BYTES."""
    body = json.dumps({"type": type(message).__name__, **asdict(message)}).encode()
    if len(body) > MAX_MESSAGE_BYTES:
        raise MessageError(f"a {type(message).__name__} message of {len(body)} bytes is too large")
    return body


def decode_message(packet: bytes) -> Message:
    """Decode one packet; `MessageError` for anything that `encode_message` would not make."""
    try:
        document = json.loads(packet)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"not a message: {error}") from error
    if not isinstance(document, dict):
        raise MessageError("not a message: not an object")
    name = document.pop("type", None)
    kinds = _FIELDS.get(name) if isinstance(name, str) else None
    if kinds is None or not isinstance(name, str):
        raise MessageError(f"unknown message type {_show(name)}")
    if document.keys() != kinds.keys():
        raise MessageError(f"{name}: its fields are {sorted(kinds)}, not {sorted(document)!r:.200}")
    values = {key: _convert(value, kinds[key], f"{name}.{key}") for key, value in document.items()}
    return _TYPES[name](**values)  # type: ignore[arg-type]  # checked against the fields above


def _convert(value: object, kind: str, where: str) -> object:
    if kind == "str" and isinstance(value, str) and _is_unicode(value):
        return value
    if kind == "bool" and isinstance(value, bool):
        return value
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and -_MAX_INT < value < _MAX_INT
    ):
        if kind == "int" and isinstance(value, int):
            return value
        if kind == "float":
            return float(value)
    if isinstance(value, list) and kind.startswith("tuple["):
        item = kind.removeprefix("tuple[").removesuffix(", ...]")
        return tuple(_convert(entry, item, where) for entry in value)
    raise MessageError(f"{where}: expected {kind}, got {_show(value)}")


def _show(value: object) -> str:
    """Quote a value for a message; only say what it is when it may be deeply nested."""
    return type(value).__name__ if isinstance(value, list | dict) else f"{value!r:.40}"


def _is_unicode(text: str) -> bool:
    """Whether the text can be stored and shown: JSON can spell half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
