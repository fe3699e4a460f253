"""What an operator may set: frozen groups, read from a file, then the environment, then flags.

The file is TOML (`/etc/limpet/limpet.toml`, or `--config`), the environment `LIMPET_GROUP_KEY`,
flags whatever the CLI passes as overrides. Unknown keys are refused with the nearest known one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from limpet.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping


DEFAULT_SETTINGS_FILE = Path("/etc/limpet/limpet.toml")

KeySource: TypeAlias = Literal["file", "passphrase", "credential"]


class SettingsError(InvalidInputError):
    """A settings file, variable or flag that can't be used."""

    reason = "InvalidSettings"


def default_data_directory() -> Path:
    """Where a node keeps everything: `/var/lib/limpet` for root, the XDG data folder for others."""
    if os.geteuid() == 0:
        return Path("/var/lib/limpet")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "limpet"


def default_socket_path() -> Path:
    """Where the API listens: `/run/limpet/limpet.sock` for root, the XDG runtime folder for others."""
    if os.geteuid() == 0:
        return Path("/run/limpet/limpet.sock")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return (Path(runtime) if runtime else default_data_directory()) / "limpet.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """The node itself."""

    data_directory: Path = field(default_factory=default_data_directory)
    """Everything the node must remember. Default: `/var/lib/limpet`."""
    socket_path: Path = field(default_factory=default_socket_path)
    """The local API's Unix socket. Default: `/run/limpet/limpet.sock`."""
    name: str = ""
    """The node's name in events and guests' `spec.nodeName`. Default: the host's name."""
    resync_seconds: float = 10.0
    """How often desired and observed state are compared when nothing happens."""
    manifests: str = ""
    """A folder of manifests that are applied as they change (docs/gitops.md). Default: none."""
    manifests_rescan_seconds: float = 60.0
    """How often that folder is looked at when nothing is heard of a change."""
    backoff_seconds: float = 10.0
    """The first pause before a failed worker starts again; it doubles up to 300 seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Limits of every HTTP connection to an app."""

    head_bytes: int = 32 << 10
    """The request line and headers together; more is answered by 431. Default: 32768."""
    head_timeout_seconds: float = 10.0
    """How long a client may take to send a request's head."""
    body_timeout_seconds: float = 60.0
    """How long a client may take to send a request's body."""
    keep_alive_seconds: float = 75.0
    """How long an idle connection stays open."""
    connections: int = 1024
    """Open connections per worker; more wait in the kernel's queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """The apps' logs on disk."""

    file_bytes: int = 4 << 20
    """A log file is rotated at this size. Default: 4 MiB."""
    files: int = 2
    """How many files are kept per worker, the current one included."""
    flush_seconds: float = 1.0
    """How long lines wait to be written together; a killed agent loses them. Longer spares the flash."""
    bytes_per_second: int = 1 << 20
    """What one app may log on average; a faster one is slowed down. Default: 1 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressSettings:
    """The HTTP router in front of the apps; it listens only while an Ingress exists."""

    listen: str = "127.0.0.1:8880"
    """`address:port` of the router."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysSettings:
    """The key that unlocks everything the node keeps (docs/decisions/keys.md)."""

    source: KeySource = "file"
    """Where the unlock key comes from: `file`, `passphrase` or `credential`. Default: `file`."""
    file: str = ""
    """The key file of source `file`. Default: `/etc/limpet/node.key` for `/var/lib/limpet`, else
    the data directory's path with `.key` added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSettings:
    """The volumes of apps."""

    trim_hours: float = 168.0
    """How often blocks that guests have freed are given back to the disk. Default: once a week."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSettings:
    """What was asked for, and its backups (docs/storage.md)."""

    max_bytes: int = 64 << 20
    """How large the state file may get. Default: 64 MiB."""
    backups: int = 3
    """How many backups of the state are kept, beside those from before a change of its schema."""
    backup_minutes: float = 60.0
    """The shortest time between two backups, for the flash's sake. Default: an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSettings:
    """What the node may take of the disk, and what it leaves (docs/storage.md)."""

    free_bytes: int = 128 << 20
    """The node evicts to keep so much free, at most a tenth of the disk. Default: 128 MiB."""
    modules_bytes: int = 512 << 20
    """Modules and compiled code that nothing needs go when all are larger. Default: 512 MiB."""
    unused_hours: float = 168.0
    """What nothing has needed for so long goes in any case. Default: a week."""
    grace_minutes: float = 60.0
    """How long a module that was uploaded waits for an app that needs it. Default: an hour."""
    reserve_bytes: int = 4 << 20
    """Kept aside, so that the state can be written when the disk is full. Default: 4 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    """What the node does when the device runs out of memory (docs/storage.md)."""

    free_bytes: int = 48 << 20
    """With less available (MemAvailable) spares and idle workers are let go. Default: 48 MiB."""
    stall_percent: float = 20.0
    """The same with up to four times as much available, while processes wait for memory for this
    share of the time (/proc/pressure/memory, some avg10). Default: 20."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSettings:
    """Bundles (docs/bundles.md)."""

    keys: str = ""
    """Whose bundles are trusted: PEM files of public keys, separated by commas. Default: nobody's."""
    require_signature: bool = False
    """Refuse every bundle that none of `keys` has signed. Default: false."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings:
    """Where modules are downloaded from, and which are trusted (docs/registry.md)."""

    credentials_file: str = ""
    """Credentials in the format of docker's config.json, read at each pull. Default: none."""
    policy: str = ""
    """Whose signature images need: `PREFIX=KEYFILE`, `PREFIX=accept` or `PREFIX=reject`, separated by
    commas; `*` is the rest. Default: every image is accepted."""
    ca_file: str = ""
    """More certificates to trust, in PEM. Default: the system's alone."""
    mirrors: str = ""
    """Registries to ask instead: `REGISTRY=host[:port]`, separated by commas. Default: none."""
    parallel: int = 2
    """How many downloads run at once. Default: 2."""
    bytes_per_second: int = 1 << 30
    """What all downloads together may take of the link. Default: 1 GiB, which is no bound."""
    least_bytes_per_second: int = 256
    """A server that sends less, over half a minute of waiting, is given up. Default: 256."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSettings:
    """How changes of apps are rolled out (docs/rollouts.md)."""

    reserve_bytes: int = 32 << 20
    """Memory that stays free when two releases run side by side. Default: 33554432 (32 MiB)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeSettings:
    """How another version of Limpet is tried (docs/upgrade.md)."""

    trial_seconds: float = 120.0
    """How long it may take until it is healthy; else the version before comes back. Default: 120."""
    stable_seconds: float = 10.0
    """How long it has to be healthy without a break before it stays. Default: 10."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """The walls around apps (docs/security.md)."""

    first_uid: int = 1_900_000_000
    """The first of the user and group numbers that are the apps' alone. Default: 1900000000."""
    uids: int = 65_536
    """How many such numbers there are; each process gets one of its own. Default: 65536."""
    allowed_capabilities: str = ""
    """Linux capabilities that manifests may ask for, by name, separated by commas. Default: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every group."""

    node: NodeSettings = field(default_factory=NodeSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    logs: LogSettings = field(default_factory=LogSettings)
    ingress: IngressSettings = field(default_factory=IngressSettings)
    keys: KeysSettings = field(default_factory=KeysSettings)
    volumes: VolumeSettings = field(default_factory=VolumeSettings)
    sandbox: SandboxSettings = field(default_factory=SandboxSettings)
    state: StateSettings = field(default_factory=StateSettings)
    disk: DiskSettings = field(default_factory=DiskSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    bundles: BundleSettings = field(default_factory=BundleSettings)
    registry: RegistrySettings = field(default_factory=RegistrySettings)
    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    upgrade: UpgradeSettings = field(default_factory=UpgradeSettings)

    @property
    def manifests_folder(self) -> Path | None:
        """The folder of `node.manifests`; None without one."""
        return Path(self.node.manifests).expanduser().absolute() if self.node.manifests else None

    @property
    def key_file(self) -> Path:
        """Where the unlock key of source `file` is: never inside the data directory."""
        if self.keys.file:
            return Path(self.keys.file).expanduser().absolute()
        data = self.node.data_directory
        if data == Path("/var/lib/limpet"):
            return Path("/etc/limpet/node.key")
        return data.with_name(f"{data.name}.key")


_GROUPS: dict[str, type[Any]] = {
    "node": NodeSettings,
    "http": HttpSettings,
    "logs": LogSettings,
    "ingress": IngressSettings,
    "keys": KeysSettings,
    "volumes": VolumeSettings,
    "sandbox": SandboxSettings,
    "state": StateSettings,
    "disk": DiskSettings,
    "memory": MemorySettings,
    "bundles": BundleSettings,
    "registry": RegistrySettings,
    "rollout": RolloutSettings,
    "upgrade": UpgradeSettings,
}

# Also looked at by processes that have no settings: limpet.engine.wasmedge.library.
_NOT_SETTINGS = frozenset({"LIMPET_WASMEDGE_ROOT"})


def load_settings(
    *,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Settings:
    """Combine defaults, the file, the environment and `overrides` (`{"node.name": ...}`).

    Raises `SettingsError` naming the source and the key.
    """
    values: dict[str, dict[str, object]] = {group: {} for group in _GROUPS}
    for group, key, value in _from_file(file):
        _set(values, group, key, value, source=str(file))
    for variable, text in sorted((environment or {}).items()):
        if variable in _NOT_SETTINGS:
            continue
        if variable.startswith("LIMPET_") and variable.count("_") >= 2:
            group, _, key = variable.removeprefix("LIMPET_").lower().partition("_")
            _set(values, group, key, text, source=variable)
    for path, override in (overrides or {}).items():
        if override is not None:
            group, _, key = path.partition(".")
            _set(values, group, key, override, source=f"--{key.replace('_', '-')}")
    return Settings(**{group: _GROUPS[group](**values[group]) for group in _GROUPS})


def _from_file(file: Path | None) -> list[tuple[str, str, object]]:
    if file is None:
        return []
    import tomllib

    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{file}: can't read the settings: {error}") from error
    found: list[tuple[str, str, object]] = []
    for group, table in document.items():
        if not isinstance(table, dict):
            raise SettingsError(f"{file}: {group}: expected a [table] of settings")
        found.extend((group, key, value) for key, value in table.items())
    return found


def _set(
    values: dict[str, dict[str, object]], group: str, key: str, value: object, *, source: str
) -> None:
    known = {
        f"{name}.{entry.name}": entry.type
        for name, kind in _GROUPS.items()
        for entry in fields(kind)
    }
    path = f"{group}.{key}"
    if path not in known:
        import difflib

        near = difflib.get_close_matches(path, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(sorted(known))}"
        raise SettingsError(f"{source}: unknown setting {path}{hint}")
    values[group][key] = _convert(value, str(known[path]), where=f"{source}: {path}")


def _convert(value: object, kind: str, *, where: str) -> object:
    try:
        if kind == "Path" and isinstance(value, str | Path) and str(value):
            return Path(value).expanduser().absolute()
        if kind == "str" and isinstance(value, str):
            return value
        if kind == "bool" and (isinstance(value, bool) or value in ("true", "false")):
            return value in (True, "true")
        if kind == "KeySource" and value in get_args(KeySource):
            return value
        if (kind == "float" and isinstance(value, str | int | float)) or (
            kind == "int" and isinstance(value, str | int)
        ):
            number = int(value) if kind == "int" else float(value)
            if not isinstance(value, bool) and 0 < number < float("inf"):
                return number
    except (ValueError, OverflowError, RuntimeError):  # RuntimeError: `~nobody` has no home
        pass
    wanted = {
        "Path": "a path",
        "str": "text",
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "KeySource": "one of " + ", ".join(get_args(KeySource)),
    }[kind]
    suffix = " above zero" if kind in ("int", "float") else ""
    raise SettingsError(f"{where}: expected {wanted}{suffix}, got {value!r}")
