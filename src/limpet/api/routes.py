"""What each call of the local API does (docs/api.md): parse, ask the agent, answer."""

from __future__ import annotations

import asyncio
import json
import traceback
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from limpet.api import transfers
from limpet.api.logs import describe_last_output, stream_logs
from limpet.api.queries import read_number
from limpet.api.rollouts import change_rollout, describe_release, describe_releases
from limpet.errors import InvalidInputError, LimpetError, NotFoundError, TemporaryError
from limpet.http1.message import Response
from limpet.node.brought import Brought, remember
from limpet.node.status import (
    describe_app,
    describe_node,
    describe_usage,
    format_time,
)
from limpet.node.usage import UsageMeter
from limpet.plan import AppKey
from limpet.store.encryption import KEY_BYTES
from limpet.store.modules import MAX_MODULE_BYTES
from limpet.store.unlock import Stretching

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    from limpet.api.streaming import LogStreamResponse
    from limpet.http1.connection import BodySink
    from limpet.http1.message import Request
    from limpet.node.agent import Agent
    from limpet.node.apps import AppRuntime
    from limpet.store.database import Event, StoredObject
    from limpet.store.modules import ModuleStore, StagedModule

    class Upload(BodySink, Protocol):
        """What a call brings in pieces."""

        def finish(self) -> None:
            """Keep it, if it is what it was announced as. Raises LimpetError, OSError."""

        def abandon(self) -> None:
            """Forget what was not kept."""


_STATS_PATIENCE_SECONDS = 0.02
_MODULES = b"/v1/modules/"
_COMPILED = b"/v1/compiled/"
_APP_CALLS = (("GET", "logs"), ("GET", "releases"), ("POST", "rollout"))
_KEY_CALLS = (("GET",), ("POST", "rotate"))


class ModuleUpload:
    """A module on its way into the store."""

    max_bytes = MAX_MODULE_BYTES

    def __init__(self, store: ModuleStore, digest: str) -> None:
        self._digest = digest
        self._staged: StagedModule | None = None
        self._refusal: LimpetError | None = None
        try:
            self._staged = store.create_module()
        except LimpetError as error:
            self._refusal = error  # told once the caller has sent it all: it listens then

    def write(self, data: bytes) -> None:
        """Take the next piece. Raises OSError."""
        if self._staged is not None:
            self._staged.write(data)

    def finish(self) -> None:
        """Publish. Raises LimpetError, OSError."""
        if self._refusal is not None:
            raise self._refusal
        staged, self._staged = self._staged, None
        if staged is not None:
            staged.finish(self._digest)

    def abandon(self) -> None:
        """Forget."""
        staged, self._staged = self._staged, None
        if staged is not None:
            staged.abandon()


class NodeFailureError(TemporaryError):
    """The node met an error of its operating system: a full disk, too many open files."""

    reason = "NodeFailure"


class Routes:
    """The calls."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._meter = UsageMeter()

    def upload_sink(self, method: bytes, target: bytes) -> Upload | None:
        """Return where a request's body goes when it is a module or compiled code."""
        if method != b"PUT" or not target.startswith((_MODULES, _COMPILED)):
            return None
        path = target.partition(b"?")[0]
        digest = unquote(path.rpartition(b"/")[2].decode("ascii", "replace"))
        if path.startswith(_MODULES):
            return ModuleUpload(self._agent.store, digest)
        return self._agent.bundles.stage(digest)

    def abandon(self, sink: Upload | None) -> None:
        """Forget an upload whose caller went away."""
        if sink is not None:
            sink.abandon()

    async def answer(self, request: Request, sink: Upload | None) -> Response | LogStreamResponse:
        """Answer one request, errors included."""
        try:
            if request.method not in (b"GET", b"HEAD"):
                self._agent.upgrades.check_changes()
            return await self._dispatch(request, sink)
        except LimpetError as error:
            return error_response(error)
        except OSError as error:
            return error_response(NodeFailureError(f"the node can't do that now: {error}"))
        except Exception as error:
            traceback.print_exc()
            return error_response(
                LimpetError(f"a defect in Limpet: {error!r}; the node's log has the traceback")
            )
        finally:
            self.abandon(sink)

    async def _dispatch(
        self, request: Request, sink: Upload | None
    ) -> Response | LogStreamResponse:
        parts = [unquote(part) for part in request.path.decode("utf-8", "replace").split("/")[1:]]
        query = dict(parse_qsl(request.query.decode("utf-8", "replace")))
        method = request.method.decode("latin-1")
        match (method, *parts):
            case ("GET", "v1", "node"):
                return _json(describe_node(self._agent))
            case (_, "v1", "modules" | "compiled" | "bundles", *_):
                return await self._transfer(request, sink, (method, *parts[1:]), query)
            case ("POST", "v1", "apply"):
                return self._apply(request.body)
            case ("GET", "v1", "objects"):
                return self._objects(query)
            case ("DELETE", "v1", "objects", kind, namespace, name):
                warnings = self._agent.managed.warn_by_hand((kind, namespace, name))
                self._agent.delete((kind, namespace, name))
                return _json({"deleted": True, "warnings": warnings})
            case ("GET", "v1", "apps"):
                return await self._apps(query)
            case ("GET", "v1", "apps", namespace, name):
                runtime = self._find(namespace, name)
                [described] = await self._describe([runtime])
                return _json(described | {"last_output": describe_last_output(runtime)})
            case (_, "v1", "apps", namespace, name, part, *rest) if (method, part) in _APP_CALLS:
                runtime = self._find(namespace, name)
                return self._app_part(runtime, [part, *rest], query, request.body)
            case ("GET", "v1", "events"):
                return self._events(query)
            case (_, "v1", "keys", *rest) if (method, *rest) in _KEY_CALLS:
                return self._keys(method, request.body)
            case (_, "v1", "upgrade") if method in ("GET", "POST"):
                return self._upgrade(method, request.body)
        raise _no_such_call(request)

    def _upgrade(self, method: str, body: bytes) -> Response:
        if method == "GET":
            return _json(self._agent.upgrades.describe())
        version = _parse_json(body).get("version")
        if not isinstance(version, str):
            raise InvalidInputError("`version` must be the version to try")
        self._agent.upgrades.start(version)
        return _json(self._agent.upgrades.describe(), status=202)

    async def _transfer(
        self,
        request: Request,
        sink: Upload | None,
        call: tuple[str, ...],
        query: Mapping[str, str],
    ) -> Response | LogStreamResponse:
        """The calls about modules, compiled code and bundles."""
        match call:
            case ("HEAD", "modules", digest):
                self._agent.care.disk.note_use(digest)  # the caller is about to need it
                return Response(200 if self._agent.store.has_module(digest) else 404)
            case ("PUT", "modules" | "compiled", digest) if sink is not None:
                sink.finish()
                return _json({"digest": digest}, status=201)
            case ("GET", "modules", digest, "evidence"):
                return _json(transfers.show_evidence(self._agent, digest, query))
            case ("GET", "modules", digest):
                return transfers.send_module(self._agent, digest)
            case ("POST", "modules", digest, "compile"):
                return _json(await transfers.compile_module(self._agent, digest, query))
            case ("GET", "compiled", name):
                return transfers.send_compiled(self._agent, name)
            case ("POST", "bundles"):
                return _json(await transfers.judge_bundle(self._agent, _parse_json(request.body)))
        raise _no_such_call(request)

    def _apply(self, body: bytes) -> Response:
        document = _parse_json(body)
        entries = document.get("objects")
        if not isinstance(entries, list) or not entries:
            raise InvalidInputError("`objects` must be a list with at least one entry")
        requested: list[tuple[dict[str, object], str | None]] = []
        brought: list[Brought] = []
        for entry in entries:
            manifest = entry.get("object") if isinstance(entry, dict) else None
            digest = entry.get("digest") if isinstance(entry, dict) else None
            if not isinstance(manifest, dict) or not isinstance(digest, str | None):
                raise InvalidInputError(
                    "each entry of `objects` has an `object` and maybe a `digest`"
                )
            requested.append((manifest, digest))
            if digest is not None:
                brought.append(Brought(manifest, digest, entry.get("evidence")))
        results = self._agent.apply(
            requested,
            dry_run=document.get("dry_run") is True,
            alongside=remember(self._agent.pulls, brought),
        )
        return _json({"results": results})

    def _app_part(
        self, runtime: AppRuntime, parts: list[str], query: Mapping[str, str], body: bytes
    ) -> Response | LogStreamResponse:
        match parts:
            case ["logs"]:
                return stream_logs(runtime, query)
            case ["releases"]:
                return _json(describe_releases(self._agent, runtime))
            case ["releases", number]:
                return _json(describe_release(self._agent, runtime, number))
            case ["rollout"]:
                return _json(change_rollout(self._agent, runtime, _parse_json(body)))
        raise NotFoundError(f"an app has no {'/'.join(parts)}")

    def _keys(self, method: str, body: bytes) -> Response:
        if method == "GET":
            return _json(_with_times(self._agent.keys.describe()))
        document = _parse_json(body)
        key, stretching = parse_unlock(document)
        return _json(
            self._agent.rotate_keys(key, stretching, dry_run=document.get("dry_run") is True)
        )

    def _objects(self, query: Mapping[str, str]) -> Response:
        items = [
            _object(stored) | self._origin(stored) | self._claim_usage(stored)
            for stored in self._agent.objects.stored.values()
            if query.get("kind") in (None, stored.kind)
            and query.get("namespace") in (None, stored.namespace)
            and query.get("name") in (None, stored.name)
        ]
        return _json({"items": items})

    def _origin(self, stored: StoredObject) -> dict[str, object]:
        key = (stored.kind, stored.namespace, stored.name)
        return {"managed_by": self._agent.managed.file_of(key)}

    def _claim_usage(self, stored: StoredObject) -> dict[str, object]:
        """Return how full a volume is, for claims alone."""
        if stored.kind != "PersistentVolumeClaim":
            return {}
        usage = self._agent.volume_usage(stored.namespace, stored.name)
        return {"usage": describe_usage(usage)}

    async def _apps(self, query: Mapping[str, str]) -> Response:
        runtimes = [
            runtime
            for key, runtime in sorted(self._agent.apps.items())
            if query.get("namespace") in (None, key.namespace)
        ]
        return _json({"items": await self._describe(runtimes)})

    async def _describe(self, runtimes: list[AppRuntime]) -> list[dict[str, object]]:
        for runtime in runtimes:
            runtime.request_stats()
        if any(runtime.workers for runtime in runtimes):
            await asyncio.sleep(_STATS_PATIENCE_SECONDS)  # a busy worker's figures may be older
        return [
            describe_app(
                runtime,
                engine=self._agent.engine_of(runtime),
                meter=self._meter,
                standing=self._agent.standing(),
                managed_by=self._agent.managed.file_of(runtime.object_key),
            )
            | {"rollout": self._agent.rollouts.describe(runtime)}
            for runtime in runtimes
        ]

    def _find(self, namespace: str, name: str) -> AppRuntime:
        runtime = self._agent.apps.get(AppKey(namespace, name))
        if runtime is None:
            raise NotFoundError(f"app {namespace}/{name} does not exist; see `limpet get apps -A`")
        return runtime

    def _events(self, query: Mapping[str, str]) -> Response:
        events = self._agent.events.select(
            namespace=query.get("namespace"),
            name=query.get("name"),
            limit=read_number(query, "limit", default=100),
        )
        return _json({"items": [_event(event) for event in events]})


def _no_such_call(request: Request) -> NotFoundError:
    called = f"{request.method.decode('latin-1')} {request.path.decode('utf-8', 'replace')}"
    return NotFoundError(f"the API has no {called}")


def error_response(error: LimpetError) -> Response:
    """Turn an error into the API's one error shape."""
    document: dict[str, object] = {"reason": error.reason, "message": str(error)}
    problems = getattr(error, "problems", None)
    if problems is not None:
        document["problems"] = [
            {"where": problem.where, "path": problem.path, "why": problem.why}
            for problem in problems
        ]
    headers = [(b"Retry-After", b"1")] if error.is_retryable else []
    return _json({"error": document}, status=error.http_status, headers=headers)


def _json(
    document: object, *, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None
) -> Response:
    body = json.dumps(document).encode() + b"\n"
    return Response(status, [(b"Content-Type", b"application/json"), *(headers or [])], body)


def _parse_json(body: bytes) -> dict[str, object]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidInputError("the body must be a JSON object")
    return document


def parse_unlock(document: Mapping[str, object]) -> tuple[bytes | None, Stretching | None]:
    """Read a new unlock key and how its passphrase was stretched. No message repeats the key."""
    key, scrypt = document.get("unlock_key"), document.get("scrypt")
    if key is None and scrypt is None:
        return None, None
    try:
        if not isinstance(key, str) or not isinstance(scrypt, dict):
            raise TypeError
        unlock_key = bytes.fromhex(key)
        salt = bytes.fromhex(scrypt["salt"]).hex()
        stretching = Stretching(salt=salt, **{name: int(scrypt[name]) for name in ("n", "r", "p")})
    except (ValueError, KeyError, TypeError):
        unlock_key = b""
    if len(unlock_key) != KEY_BYTES:
        raise InvalidInputError(
            "expected `unlock_key`, 64 hexadecimal digits, and `scrypt` with salt, n, r and p"
        ) from None
    return unlock_key, stretching


def _with_times(told: dict[str, Any]) -> dict[str, object]:
    for part in (told, *told["generations"]):
        part["created_at"] = format_time(part["created_at"])
    return told


def _object(stored: StoredObject) -> dict[str, object]:
    document = json.loads(stored.body)
    if stored.kind == "Secret":
        for part in ("data", "stringData"):
            values = document.get(part)
            if isinstance(values, dict):
                document[part] = {
                    key: f"<{len(value)} characters>" for key, value in values.items()
                }
    return {
        "kind": stored.kind,
        "namespace": stored.namespace,
        "name": stored.name,
        "created_at": format_time(stored.created_at),
        "generation": stored.generation,
        "object": document,
    }


def _event(event: Event) -> dict[str, object]:
    return {
        "time": format_time(event.time),
        "type": event.type,
        "reason": event.reason,
        "kind": event.kind,
        "namespace": event.namespace,
        "name": event.name,
        "message": event.message,
        "count": event.count,
    }
