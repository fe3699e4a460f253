"""What else a node needs or would like of its device: engine, keys, clock, room."""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from limpet.provision.finding import Finding, Level
from limpet.provision.trial import TrialError, run_trial

if TYPE_CHECKING:
    from limpet.settings import Settings

_MIB = 1 << 20
_LOW_DISK_BYTES = 256 * _MIB
_LOW_MEMORY_BYTES = 96 * _MIB
_TPM = Path("/dev/tpmrm0")
_PR_GET_DUMPABLE = 3
_NEWEST_PYTHON = (3, 14)
_CREDENTIAL_FIX = (
    "seal the key to the TPM: systemd-creds encrypt, LoadCredentialEncrypted= in the unit, and "
    "keys.source = credential"
)


def examine_device(settings: Settings) -> list[Finding]:
    """Look at all of it; what is of no use to anybody is left out."""
    data = settings.node.data_directory
    return [
        _engine(),
        _wasmedge(data),
        _state(),
        _core_dumps(),
        _key(settings),
        _tpm(settings),
        _swap(),
        _python(),
        _clock(),
        _memory(),
        _disk(data),
    ]


def _engine() -> Finding:
    try:
        told = run_trial(_use_engine)
    except TrialError as error:
        return Finding(
            name="engine",
            level=Level.MISSING,
            found="Wasmtime does not run here",
            without="no app can run",
            fix=str(error),
        )
    return Finding(
        name="engine", level=Level.OK, found=f"{told['name']}, {told['memory']}", details=told
    )


def _use_engine() -> dict[str, str]:
    """Compile and run a guest."""
    from limpet.engine import open_engine
    from limpet.worker.rehearsal import Rehearsal

    engine = open_engine()
    Rehearsal(engine).run()
    return {"name": f"{engine.name} {engine.version}", "memory": engine.describe_memory()}


def _wasmedge(data: Path) -> Finding:
    """The engine that is optional: that it is not there is no lack."""
    from limpet.provision.engine_report import examine_wasmedge

    report = examine_wasmedge(data)
    details = {"state": report.state, "where": report.where, "modes": list(report.modes)}
    if report.state == "usable":
        found = f"WasmEdge {report.version}, {' and '.join(report.modes)}"
        return Finding(name="second-engine", level=Level.OK, found=found, details=details)
    if report.state == "missing":
        return Finding(
            name="second-engine",
            level=Level.OK,
            found="none (optional: `limpet engine install wasmedge`)",
            details=details,
        )
    return Finding(
        name="second-engine",
        level=Level.HINT,
        found=f"WasmEdge is there and does not run: {report.problem}",
        without="apps that ask for it do not start",
        fix="`limpet engine install wasmedge`, or `limpet engine remove wasmedge`",
        details=details,
    )


def _state() -> Finding:
    with tempfile.TemporaryDirectory(prefix="limpet-doctor-") as folder:
        try:
            run_trial(lambda: _use_encryption(Path(folder) / "state.db"))
        except TrialError as error:
            return Finding(
                name="state-encryption",
                level=Level.MISSING,
                found="the node's state and logs can't be encrypted",
                without="no node can start",
                fix=f"install apsw-sqlite3mc again ({error})",
            )
    return Finding(
        name="state-encryption", level=Level.OK, found="state and logs: ChaCha20-Poly1305"
    )


def _use_encryption(path: Path) -> None:
    """Write a database that another key does not open."""
    from limpet.store.encryption import KEY_BYTES, WrongKeyError, open_encrypted

    connection, _ = open_encrypted(path, [os.urandom(KEY_BYTES)])
    connection.execute("CREATE TABLE trial (value)")
    connection.close()
    try:
        open_encrypted(path, [os.urandom(KEY_BYTES)])
    except WrongKeyError:
        return
    raise TrialError("another key opened it")


def _core_dumps() -> Finding:
    try:
        is_off = run_trial(_use_no_core_dumps)
    except TrialError:
        is_off = False
    if is_off:
        return Finding(name="core-dumps", level=Level.OK, found="off for the node and its workers")
    return Finding(
        name="core-dumps",
        level=Level.HINT,
        found=f"sent to a program when a node without root crashes: {_core_pattern()}"
        if os.geteuid() != 0
        else "can't be switched off",
        without="a crash may write secrets to the disk",
        fix="sysctl kernel.core_pattern=core, or run the node as root",
    )


def _use_no_core_dumps() -> bool:
    """Switch them off as the node does; a user's processes stay dumpable (core(5): but for pipes)."""
    import resource

    from limpet.linux.calls import prctl
    from limpet.linux.process import disable_core_dumps

    if os.geteuid() != 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        return not _core_pattern().startswith("|")
    disable_core_dumps()
    is_dumpable = prctl(_PR_GET_DUMPABLE, what="PR_GET_DUMPABLE")
    return resource.getrlimit(resource.RLIMIT_CORE) == (0, 0) and not is_dumpable


def _core_pattern() -> str:
    return Path("/proc/sys/kernel/core_pattern").read_text("utf-8", "replace").strip()


def _key(settings: Settings) -> Finding:
    source = settings.keys.source
    if source == "file":
        where = settings.key_file
        return Finding(
            name="key",
            level=Level.HINT,
            found=f"file {where}" + (_not_made_yet(where)),
            without="whoever takes the disk that the key is on can read everything",
            fix="keys.source = credential (sealed to a TPM) or passphrase",
            details={"source": source, "where": str(where)},
        )
    protects = {
        "credential": "a systemd credential: opens on this machine alone if sealed to its TPM",
        "passphrase": "a passphrase: nothing on the device opens its data",
    }
    return Finding(name="key", level=Level.OK, found=protects[source], details={"source": source})


def _not_made_yet(path: Path) -> str:
    try:
        return "" if path.exists() else " (made at the first start)"
    except OSError:
        return ""  # a folder that is not ours to look into


def _tpm(settings: Settings) -> Finding:
    details = {"device": str(_TPM) if _TPM.exists() else None}
    if not _TPM.exists():
        return Finding(name="tpm", level=Level.OK, found="none", details=details)
    if settings.keys.source == "credential":
        return Finding(name="tpm", level=Level.OK, found="TPM 2.0", details=details)
    return Finding(
        name="tpm",
        level=Level.HINT,
        found="TPM 2.0, not used",
        without="the key could be sealed to this machine",
        fix=_CREDENTIAL_FIX,
        details=details,
    )


def _swap() -> Finding:
    plain = [device for device in _read_swaps() if not _is_safe_swap(device)]
    if not plain:
        return Finding(name="swap", level=Level.OK, found="none on a plain disk")
    return Finding(
        name="swap",
        level=Level.HINT,
        found=f"{', '.join(plain)}, not encrypted",
        without="the node's memory, secrets included, may reach the disk",
        fix="swap to zram or encrypt it, or `swapoff`",
        details={"plain": plain},
    )


def _read_swaps() -> list[str]:
    try:
        lines = Path("/proc/swaps").read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []  # a kernel without swap
    return [line.split()[0] for line in lines[1:] if line.strip()]


def _is_safe_swap(device: str) -> bool:
    """Whether it is memory, or encrypted by dm-crypt (whose uuid says so)."""
    name = Path(device).resolve().name
    if name.startswith("zram"):
        return True
    try:
        return Path(f"/sys/class/block/{name}/dm/uuid").read_text("utf-8").startswith("CRYPT-")
    except OSError:
        return False


def _python() -> Finding:
    version = tuple(map(int, platform.python_version_tuple()[:2]))
    text = f"{platform.python_implementation()} {platform.python_version()}"
    if version <= _NEWEST_PYTHON:
        return Finding(name="python", level=Level.OK, found=text)
    return Finding(
        name="python",
        level=Level.HINT,
        found=f"{text}, newer than any Limpet was tested with",
        fix="Python 3.11 to 3.14",
    )


def _clock() -> Finding:
    from limpet.linux.clock import is_synchronised

    try:
        if is_synchronised():
            return Finding(name="clock", level=Level.OK, found="synchronised")
        found = "not synchronised"
    except OSError as error:
        found = f"not known ({error.strerror})"
    return Finding(
        name="clock",
        level=Level.HINT,
        found=found,
        without="certificates may seem invalid, and times in logs and events be wrong",
        fix="timedatectl set-ntp true",
    )


def _memory() -> Finding:
    sizes = {
        name: int(rest.split()[0]) << 10
        for name, _, rest in (
            line.partition(":") for line in Path("/proc/meminfo").read_text("ascii").splitlines()
        )
    }
    total, available = sizes["MemTotal"], sizes.get("MemAvailable", sizes["MemFree"])
    return _room(
        "memory", total, available, low=_LOW_MEMORY_BYTES, fix="end something, or run fewer apps"
    )


def _disk(data: Path) -> Finding:
    folder = data
    while not _is_there(folder):
        folder = folder.parent
    status = os.statvfs(folder)
    total, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    return _room("disk", total, free, low=_LOW_DISK_BYTES, fix="free some space", where=data)


def _is_there(folder: Path) -> bool:
    try:
        return folder.exists()
    except PermissionError:
        return False


def _room(
    name: str, total: int, free: int, *, low: int, fix: str, where: Path | None = None
) -> Finding:
    from limpet.manifest.quantity import format_bytes

    at = f" at {where}" if where else ""
    details = {"total_bytes": total, "free_bytes": free}
    found = f"{format_bytes(free)} free of {format_bytes(total)}{at}"
    if free >= low:
        return Finding(name=name, level=Level.OK, found=found, details=details)
    return Finding(
        name=name,
        level=Level.HINT,
        found=found,
        without="apps and updates may fail for lack of it",
        fix=fix,
        details=details,
    )
