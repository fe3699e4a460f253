"""`limpet run`'s options as Kubernetes objects: what a manifest would have said. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from limpet.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Object: TypeAlias = dict[str, Any]

DEFAULT_VOLUME_SIZE = "100Mi"
_PREFIX = "limpet.dev/"
_NAME_LENGTH = 63
_VOLUME = re.compile(r"([^:]+)(?::([^:/][^:]*))?:(/[^:]*)")


class RunOptionError(InvalidInputError):
    """Options of `limpet run` that contradict each other or can't be read."""

    reason = "InvalidOption"


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """`--volume NAME[:SIZE]:/path`; without a size an existing volume stays as it is."""

    name: str
    size: str | None
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What was asked for; `listen` is `address:port`. The manifest's parser checks the texts."""

    module: str
    name: str
    namespace: str | None = None
    trigger: str | None = None
    engine: str | None = None
    restart: str | None = None
    listen: str | None = None
    args: Sequence[str] = ()
    env: Mapping[str, str]
    cpu: str | None = None
    memory: str | None = None
    volumes: Sequence[Volume] = ()
    workers: int | None = None
    idle_timeout: str | None = None
    deadline: str | None = None


def compile_objects(options: RunOptions) -> list[Object]:
    """Claims for the volumes, then the app.

    A port or a trigger that serves makes a Deployment; a command is a Job that runs once, or a
    Deployment with `--restart Always`. Without a trigger the node sees whether the module listens.
    """
    serves = options.trigger in ("http", "socket") or (
        options.trigger is None and options.listen is not None
    )
    _check(options, serves=serves)
    claims = [_claim(options, volume) for volume in options.volumes]
    if serves:
        listen = {"listen": options.listen or "127.0.0.1:0"}
        trigger = {"trigger": options.trigger} if options.trigger else {}
        app = _deployment(options, trigger | listen)
    elif options.restart == "Always":
        app = _deployment(options, {"trigger": "command"})
    else:
        app = _job(options)
    return [*claims, app]


def name_of_module(module: str) -> str:
    """A name for the app: `./Hello_World.wasm` -> `hello-world`, `ghcr.io/you/app:1` -> `app`."""
    last = module.partition("#")[0].partition("?")[0].partition("@")[0].rstrip("/").rpartition("/")
    stem = last[2].removesuffix(".wasm").partition(":")[0].lower()
    return re.sub(r"[^a-z0-9]+", "-", stem).strip("-")[:_NAME_LENGTH].strip("-") or "app"


def parse_listen(text: str) -> str:
    """`--port`: a port of 127.0.0.1, or `address:port`."""
    return f"127.0.0.1:{text}" if text.isascii() and text.isdigit() else text


def parse_volume(text: str) -> Volume:
    """`readings:/data`, `readings:200Mi:/data`."""
    match = _VOLUME.fullmatch(text)
    if match is None:
        raise RunOptionError(
            f"--volume {text}: write NAME:/path or NAME:SIZE:/path, like readings:200Mi:/data"
        )
    name, size, path = match.groups()
    return Volume(name=name, size=size, path=path)


def parse_env(texts: Sequence[str]) -> dict[str, str]:
    """`--env NAME=VALUE`; the last one of a name counts."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            # The text itself may be a secret in the wrong place: it is not shown.
            raise RunOptionError("--env: write NAME=VALUE")
        found[name] = value
    return found


def option_of(path: tuple[str | int, ...]) -> str:
    """The option that a field of the objects came from, for messages."""
    steps = [str(step) for step in path]
    for step in reversed(steps):
        option = _OPTIONS.get(step.removeprefix(_PREFIX))
        if option is not None:
            return option
    return "--name" if steps[:1] == ["metadata"] else "limpet run"


_OPTIONS = {
    "cpu": "--cpu",
    "memory": "--memory",
    "storage": "--volume",
    "volumes": "--volume",
    "volumeMounts": "--volume",
    "env": "--env",
    "args": "ARGS",
    "image": "MODULE",
    "namespace": "--namespace",
    "listen": "--port",
    "trigger": "--trigger",
    "engine": "--engine",
    "workers": "--workers",
    "idle-timeout": "--idle-timeout",
    "deadline": "--deadline",
}


def _check(options: RunOptions, *, serves: bool) -> None:
    if options.trigger == "command" and options.listen is not None:
        raise RunOptionError("--port makes an app that serves: leave --trigger command out")
    if options.trigger == "socket" and options.listen is None:
        raise RunOptionError("--trigger socket needs --port: the port that the module listens on")
    if serves and options.restart not in (None, "Always"):
        raise RunOptionError(f"--restart {options.restart} is for commands; this app serves")
    for flag, value in (("--workers", options.workers), ("--idle-timeout", options.idle_timeout)):
        if value is not None and not serves:
            raise RunOptionError(f"{flag} is for apps that serve; add --port")


def _deployment(options: RunOptions, annotations: dict[str, str]) -> Object:
    labels = {"app": options.name}
    template = {"metadata": {"labels": labels}, "spec": _pod_spec(options)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(options, annotations),
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }


def _job(options: RunOptions) -> Object:
    is_retried = options.restart == "OnFailure"
    spec = {**_pod_spec(options), "restartPolicy": options.restart or "Never"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(options, {}),
        "spec": {**({} if is_retried else {"backoffLimit": 0}), "template": {"spec": spec}},
    }


def _metadata(options: RunOptions, annotations: dict[str, str]) -> Object:
    given = {
        "engine": options.engine,
        "workers": None if options.workers is None else str(options.workers),
        "idle-timeout": options.idle_timeout,
        "deadline": options.deadline,
    }
    found = annotations | {key: value for key, value in given.items() if value is not None}
    metadata: Object = {"name": options.name}
    if options.namespace is not None:
        metadata["namespace"] = options.namespace
    if found:
        metadata["annotations"] = {_PREFIX + key: value for key, value in found.items()}
    return metadata


def _pod_spec(options: RunOptions) -> Object:
    limits = {"cpu": options.cpu, "memory": options.memory}
    limits = {key: value for key, value in limits.items() if value is not None}
    volumes = [
        {"name": volume.name, "persistentVolumeClaim": {"claimName": volume.name}}
        for volume in options.volumes
    ]
    mounts = [{"name": volume.name, "mountPath": volume.path} for volume in options.volumes]
    env = [{"name": name, "value": _literal(value)} for name, value in options.env.items()]
    container: Object = {"name": options.name, "image": options.module}
    parts = {
        "args": [_literal(arg) for arg in options.args],
        "env": env,
        "resources": {"limits": limits} if limits else None,
        "volumeMounts": mounts,
    }
    container |= {key: part for key, part in parts.items() if part}
    return {"containers": [container], **({"volumes": volumes} if volumes else {})}


def _claim(options: RunOptions, volume: Volume) -> Object:
    metadata: Object = {"name": volume.name}
    if options.namespace is not None:
        metadata["namespace"] = options.namespace
    storage = {"storage": volume.size or DEFAULT_VOLUME_SIZE}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": storage}},
    }


def _literal(text: str) -> str:
    """Kubernetes expands `$(NAME)` in values; what was typed is meant as it is."""
    return text.replace("$(", "$$(")
