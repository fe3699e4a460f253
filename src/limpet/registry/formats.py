"""What an image is made of, and which of it is the module: a function for each format. Pure.

Formats: CNCF Wasm OCI artifacts (tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact), the older
`vnd.wasm.content.layer.v1+wasm` layers, runwasi's layers, compat images (module.wasm.image/variant: a root
file system whose entrypoint is a .wasm), Spin applications. What holds no module is refused, by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from limpet.registry.documents import (
    Descriptor,
    read_descriptor,
    read_descriptors,
    read_text,
)
from limpet.registry.errors import FormatError

INDEX_TYPES = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)
MANIFEST_TYPES = frozenset(
    {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    }
)
WASM_CONFIG = "application/vnd.wasm.config.v0+json"
WASM_LAYER = "application/wasm"
_MODULE_TYPES = frozenset(
    {
        WASM_LAYER,
        "application/vnd.wasm.content.layer.v1+wasm",
        "application/vnd.module.wasm.content.layer.v1+wasm",
        "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    }
)
_PRECOMPILED = ("precompiled", "cwasm")
_SPIN_CONFIG = "application/vnd.fermyon.spin.application.v1+config"
_IMAGE_CONFIGS = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    }
)
TAR_TYPES = {
    "application/vnd.oci.image.layer.v1.tar": "",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
}
_WASM_SYSTEMS = ("wasip1", "wasi", "wasip2", "js", "")
_SPIN_TRIGGERS = frozenset({"http", "command"})


@dataclass(frozen=True, slots=True)
class ModuleLayer:
    """The layer is the module."""

    layer: Descriptor


@dataclass(frozen=True, slots=True)
class RootFiles:
    """The module is the file `path` (relative, normalised) of these layers: (layer, compression), from
    the first, which is the lowest, to the last.
    """

    path: str
    layers: tuple[tuple[Descriptor, str], ...]


Content: TypeAlias = ModuleLayer | RootFiles


def choose_manifest(index: dict[str, object]) -> Descriptor:
    """The image of an index that has WebAssembly, of whatever platform says so. Raises `FormatError`."""
    entries = [
        entry
        for entry in read_descriptors(index.get("manifests"), "the index's manifests")
        if entry.media_type in MANIFEST_TYPES | INDEX_TYPES
    ]
    wasm = [entry for entry in entries if _is_wasm(entry)]
    if wasm:
        return min(wasm, key=lambda entry: _WASM_SYSTEMS.index(entry.platform[0]))
    unspecific = [entry for entry in entries if entry.platform == ("", "")]
    if len(unspecific) == 1:
        return unspecific[0]
    offered = sorted({"/".join(entry.platform).strip("/") or "any" for entry in entries})
    raise FormatError(
        f"the image is not for WebAssembly: it is there for {_listed(offered) or 'nothing'}, "
        "and wasi/wasm or wasip1/wasm is needed"
    )


def read_config(manifest: dict[str, object]) -> Descriptor | None:
    """The configuration that `choose_content` wants to see; None where the manifest says enough."""
    config = read_descriptor(manifest.get("config"), "the manifest's config")
    if config.media_type == _SPIN_CONFIG:
        return config
    if config.media_type in _IMAGE_CONFIGS and not _module_layers(manifest):
        return config
    return None


def choose_content(manifest: dict[str, object], config: dict[str, object]) -> Content:
    """Which of an image's layers hold the module, and where. Raises `FormatError`.

    `config` is the document that `read_config` asked for, empty when it asked for none.
    """
    kind = read_descriptor(manifest.get("config"), "the manifest's config").media_type
    if kind == _SPIN_CONFIG:
        return choose_spin(manifest, config)
    if _module_layers(manifest):
        return choose_layer(manifest)
    if kind in _IMAGE_CONFIGS:
        return choose_root_files(manifest, config)
    types = sorted({layer.media_type for layer in _layers(manifest)})
    raise FormatError(
        f"the image has no WebAssembly in it: its configuration is {kind!r} and its layers are "
        f"{_listed(types) or 'none'}"
    )


def choose_layer(manifest: dict[str, object]) -> ModuleLayer:
    """The one module of a CNCF artifact, an older artifact or a runwasi image."""
    modules = _module_layers(manifest)
    if len(modules) > 1:
        names = [_title(layer) for layer in modules]
        raise FormatError(
            f"the image has {len(modules)} modules ({_listed(names)}), and an app is one: compose them "
            "into one, or push the one that is meant"
        )
    return ModuleLayer(modules[0])


def choose_root_files(manifest: dict[str, object], config: dict[str, object]) -> RootFiles:
    """The file that a compat image starts (image specification, config.md: Entrypoint, then Cmd)."""
    inner = config.get("config")
    found = inner if isinstance(inner, dict) else {}
    words = _words(found.get("Entrypoint")) or _words(found.get("Cmd"))
    entrypoint = words[0] if words else ""
    if not entrypoint.endswith(".wasm"):
        system = f"{read_text(config.get('os'))}/{read_text(config.get('architecture'))}".strip("/")
        raise FormatError(
            f"the image is not WebAssembly: it starts {entrypoint or 'nothing'!r} on "
            f"{system or 'any system'}, and a compat image starts a file whose name ends in .wasm"
        )
    path = normalise_path(entrypoint)
    layers = []
    for layer in _layers(manifest):
        if layer.media_type not in TAR_TYPES:
            raise FormatError(f"the image has a layer of an unknown type: {layer.media_type!r}")
        layers.append((layer, TAR_TYPES[layer.media_type]))
    if not layers:
        raise FormatError("the image has no layers")
    return RootFiles(path, tuple(layers))


def choose_spin(manifest: dict[str, object], lock: dict[str, object]) -> ModuleLayer:
    """The module of a Spin application that has one component, started as CGI or as a command.

    The configuration is Spin's locked application (spin-locked-app, spin_lock_version 0 and 1).
    """
    components = _objects(lock.get("components"), "components")
    names = [read_text(component.get("id")) or "unnamed" for component in components]
    if len(components) != 1:
        raise FormatError(
            f"the Spin application has {len(components)} components ({_listed(names)}), and an app is "
            "one module: make each an app of its own, or run it with Spin"
        )
    for trigger in _objects(lock.get("triggers"), "triggers"):
        _check_spin_trigger(trigger, names[0])
    source = components[0].get("source")
    digest = source.get("digest") if isinstance(source, dict) else None
    modules = _module_layers(manifest)
    for layer in modules:
        if layer.digest == digest or (digest is None and len(modules) == 1):
            return ModuleLayer(layer)
    raise FormatError(f"the Spin application's component {names[0]!r} is not among its layers")


def normalise_path(path: str) -> str:
    """A path within a root file system: relative, without `.`, `..` and empty parts."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _check_spin_trigger(trigger: dict[str, object], name: str) -> None:
    kind = read_text(trigger.get("trigger_type"))
    if kind not in _SPIN_TRIGGERS:
        raise FormatError(
            f"the Spin application's component {name!r} is started by the trigger {kind!r}, which only "
            "Spin has"
        )
    if kind == "command":
        return
    config = trigger.get("trigger_config")
    executor = config.get("executor") if isinstance(config, dict) else None
    found = read_text(executor.get("type")) if isinstance(executor, dict) else ""
    if found != "wagi":
        raise FormatError(
            f"the Spin application's component {name!r} answers requests as {found or 'spin'!r}, not as "
            'CGI: build it for the executor {type = "wagi"}, or run it with Spin'
        )


def _is_wasm(entry: Descriptor) -> bool:
    system, architecture = entry.platform
    return architecture.startswith("wasm") and system in _WASM_SYSTEMS


def _layers(manifest: dict[str, object]) -> tuple[Descriptor, ...]:
    return read_descriptors(manifest.get("layers"), "the manifest's layers")


def _module_layers(manifest: dict[str, object]) -> list[Descriptor]:
    return [
        layer
        for layer in _layers(manifest)
        if layer.media_type in _MODULE_TYPES
        and not any(mark in layer.media_type for mark in _PRECOMPILED)
    ]


def _objects(value: object, what: str) -> list[dict[str, object]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise FormatError(f"the Spin application's {what} are not a list of objects")
    return value


def _words(value: object) -> list[str]:
    if not isinstance(value, list):
        return []
    return [word for word in value if isinstance(word, str) and word.isprintable()][:64]


def _title(layer: Descriptor) -> str:
    return read_text(layer.annotations.get("org.opencontainers.image.title")) or layer.digest[:19]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
