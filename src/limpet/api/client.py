"""The synchronous client of the node's local API (docs/api.md), for the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast
from urllib.parse import quote, urlencode

from limpet.api.answers import parse_error, parse_items, parse_object
from limpet.api.exchange import Exchange, split_lines
from limpet.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

    from limpet.api.answers import (
        ApplyItem,
        ApplyResult,
        AppStatus,
        EventInfo,
        Json,
        ObjectInfo,
        ReleaseInfo,
    )
    from limpet.api.exchange import Head, Readable


class Client:
    """Calls to the node that listens on `socket_path`, one connection each.

    Every call raises the `LimpetError` category that the node answered with;
    `NodeNotRunningError` when nobody listens, `TemporaryError` when no answer comes in time.
    """

    def __init__(self, socket_path: Path, *, timeout_seconds: float = 30.0) -> None:
        self.socket_path = socket_path
        self.timeout_seconds = timeout_seconds

    def node(self) -> Json:
        """The node itself."""
        return self._call("GET", "/v1/node")

    def has_module(self, digest: str) -> bool:
        """Whether the node already holds the module `sha256:HEX`."""
        try:
            self._call("HEAD", f"/v1/modules/{_segment(digest)}")
        except NotFoundError:
            return False
        return True

    def upload_module(
        self,
        digest: str,
        file: Readable,
        *,
        size_bytes: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Send a module's bytes; `on_progress` hears how many are gone so far."""
        self._upload(f"/v1/modules/{_segment(digest)}", file, size_bytes, on_progress)

    def download_module(self, digest: str) -> Generator[bytes, None, None]:
        """A module's bytes, piece by piece; `NotFoundError` when the node does not have it."""
        return self._download(f"/v1/modules/{_segment(digest)}")

    def evidence(self, digest: str, *, source: str) -> Json | None:
        """The signatures that came with a module when it was pulled from there; None when none did."""
        query = {"source": source}
        answer = self._call("GET", _target(f"/v1/modules/{_segment(digest)}/evidence", query))
        found = answer.get("evidence")
        return cast("Json", found) if isinstance(found, dict) else None

    def compile_module(self, digest: str, *, engine: str, is_metered: bool) -> Json:
        """Have a module compiled that the node has; answers `name`, and what compiling learned."""
        query = {"engine": engine, "metered": is_metered or None}
        return self._call("POST", _target(f"/v1/modules/{_segment(digest)}/compile", query))

    def download_compiled(self, name: str) -> Generator[bytes, None, None]:
        """Compiled code's bytes, piece by piece."""
        return self._download(f"/v1/compiled/{_segment(name)}")

    def judge_bundle(self, *, index: bytes, manifest: bytes, signature: str | None) -> Json:
        """Whose key the node finds on a bundle (`signed_by`), and which compiled code is `wanted`."""
        body = {
            "index": index.decode(),
            "manifest": manifest.decode(),
            "signature": signature,
        }
        return self._call("POST", "/v1/bundles", body)

    def upload_compiled(self, digest: str, file: Readable, *, size_bytes: int) -> None:
        """Send compiled code that the node wanted."""
        self._upload(f"/v1/compiled/{_segment(digest)}", file, size_bytes, None)

    def apply(self, items: list[ApplyItem], *, dry_run: bool = False) -> list[ApplyResult]:
        """Create or change objects, all or none; results come in the same order."""
        answer = self._call("POST", "/v1/apply", {"objects": items, "dry_run": dry_run})
        return cast("list[ApplyResult]", parse_items(answer, "results"))

    def objects(
        self, *, kind: str | None = None, namespace: str | None = None, name: str | None = None
    ) -> list[ObjectInfo]:
        """Stored objects, narrowed by whatever is given."""
        query = {"kind": kind, "namespace": namespace, "name": name}
        return cast(
            "list[ObjectInfo]", parse_items(self._call("GET", _target("/v1/objects", query)))
        )

    def delete_object(self, *, kind: str, namespace: str, name: str) -> list[str]:
        """Delete one object; `NotFoundError` when it is absent. Returns the node's warnings."""
        path = f"/v1/objects/{_segment(kind)}/{_segment(namespace)}/{_segment(name)}"
        return [str(text) for text in self._call("DELETE", path).get("warnings") or ()]

    def apps(self, *, namespace: str | None = None) -> list[AppStatus]:
        """Every app's status, of one namespace or of all."""
        answer = self._call("GET", _target("/v1/apps", {"namespace": namespace}))
        return cast("list[AppStatus]", parse_items(answer))

    def app(self, *, namespace: str, name: str) -> AppStatus:
        """One app's status."""
        return cast("AppStatus", self._call("GET", _app_path(namespace, name)))

    def releases(self, *, namespace: str, name: str) -> list[ReleaseInfo]:
        """An app's releases, oldest first."""
        answer = self._call("GET", _app_path(namespace, name) + "/releases")
        return cast("list[ReleaseInfo]", parse_items(answer))

    def release(self, *, namespace: str, name: str, number: int) -> ReleaseInfo:
        """One release with its object."""
        path = f"{_app_path(namespace, name)}/releases/{number}"
        return cast("ReleaseInfo", self._call("GET", path))

    def change_rollout(
        self, *, namespace: str, name: str, action: str, to_release: int | None = None
    ) -> Json:
        """Undo, pause, resume or restart; what was done, and the newest release's number."""
        body: Json = {"action": action}
        if to_release is not None:
            body["to_release"] = to_release
        return self._call("POST", _app_path(namespace, name) + "/rollout", body)

    def events(
        self, *, namespace: str | None = None, name: str | None = None, limit: int | None = None
    ) -> list[EventInfo]:
        """What happened, oldest first."""
        query = {"namespace": namespace, "name": name, "limit": limit}
        return cast("list[EventInfo]", parse_items(self._call("GET", _target("/v1/events", query))))

    def upgrade(self) -> Json:
        """The node's version, where its versions lie, and how its last upgrade stands."""
        return self._call("GET", "/v1/upgrade")

    def try_version(self, version: str) -> Json:
        """Have the node try a version that is installed; how that ends is told by `upgrade`."""
        return self._call("POST", "/v1/upgrade", {"version": version})

    def keys(self) -> Json:
        """What the node says about its keys; never a key."""
        return self._call("GET", "/v1/keys")

    def rotate_keys(
        self,
        *,
        unlock_key: bytes | None = None,
        scrypt: Json | None = None,
        dry_run: bool = False,
    ) -> Json:
        """Change the node's keys; a node with a passphrase needs its new key and how it is made."""
        body: Json = {"dry_run": dry_run}
        if unlock_key is not None:
            body |= {"unlock_key": unlock_key.hex(), "scrypt": scrypt}
        return self._call("POST", "/v1/keys/rotate", body)

    def log_lines(
        self,
        *,
        namespace: str,
        name: str,
        query: Mapping[str, object],
        tick_seconds: float | None = None,
    ) -> Generator[bytes, None, None]:
        """An app's log, line by line with its newline, as the node sends it.

        With `follow` in the query and `tick_seconds`, an empty line is yielded whenever that
        long passed without one, so that a follower can look around.
        """
        with Exchange(self.socket_path, timeout_seconds=self.timeout_seconds) as exchange:
            exchange.send_head("GET", _target(_app_path(namespace, name) + "/logs", query))
            head = exchange.read_head("GET")
            if head.status != 200:
                _checked(exchange, head)
            if query.get("follow"):
                exchange.follow(tick_seconds)
            yield from split_lines(exchange.pieces(head))

    def _upload(
        self,
        target: str,
        file: Readable,
        size_bytes: int,
        on_progress: Callable[[int], None] | None,
    ) -> None:
        with Exchange(self.socket_path, timeout_seconds=self.timeout_seconds) as exchange:
            exchange.send_head("PUT", target, length=size_bytes)
            exchange.send_body(file, size_bytes=size_bytes, on_progress=on_progress)
            _checked(exchange, exchange.read_head("PUT"))

    def _download(self, target: str) -> Generator[bytes, None, None]:
        with Exchange(self.socket_path, timeout_seconds=self.timeout_seconds) as exchange:
            exchange.send_head("GET", target)
            head = exchange.read_head("GET")
            if head.status != 200:
                _checked(exchange, head)
            yield from exchange.pieces(head)

    def _call(self, method: str, target: str, body: object = None) -> Json:
        with Exchange(self.socket_path, timeout_seconds=self.timeout_seconds) as exchange:
            payload = None if body is None else json.dumps(body).encode()
            exchange.send_head(method, target, length=None if payload is None else len(payload))
            if payload is not None:
                exchange.send(payload)
            return _checked(exchange, exchange.read_head(method))


def _checked(exchange: Exchange, head: Head) -> Json:
    """The answer's JSON object, or the error it stands for."""
    body = exchange.read_body(head)
    if head.status // 100 == 2:
        return parse_object(body) if body else {}
    raise parse_error(head.status, head.headers, body)


def _target(path: str, query: Mapping[str, object]) -> str:
    given = {key: _query_text(value) for key, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _query_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _app_path(namespace: str, name: str) -> str:
    return f"/v1/apps/{_segment(namespace)}/{_segment(name)}"


def _segment(text: str) -> str:
    return quote(text, safe=":")
