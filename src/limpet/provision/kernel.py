"""The facilities of `limpet.dev/require`, each tried as a node would use it.

What a trial makes (groups, a file system in memory, a loop device) goes with it.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from limpet.linux.cgroup import (
    CONTROLLERS,
    CgroupFileError,
    CgroupUnavailableError,
    Limits,
    inspect_host,
    open_hierarchy,
)
from limpet.linux.cgroup.files import read_control, write_control
from limpet.manifest.model import Facility
from limpet.provision.facilities import Standing, VolumeSupport, try_volumes
from limpet.provision.finding import Finding, Level
from limpet.provision.trial import TrialError, run_trial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limpet.linux.cgroup import Availability, Hierarchy

_TRIAL_MEMORY_BYTES = 64 << 20
_LSM_LIST = Path("/sys/kernel/security/lsm")
_AS_ROOT = "run the node as root; workers still run as users without rights"
_IN_CONTAINER = "this process lacks rights of root: in a container, give it CAP_SYS_ADMIN"
# From which Landlock ABI on something can be denied (limpet.linux.landlock.restrict).
_LANDLOCK_RULES = (
    (3, "truncating files"),
    (4, "TCP"),
    (5, "device ioctls"),
    (6, "signals and abstract sockets"),
)
_LANDLOCK_FULL_ABI = 6


def examine_facilities() -> list[Finding]:
    """Try all of them; takes some 0.3 s on a small device."""
    from limpet.worker.sandbox import survey

    limits = _try_limits()
    support = _try_volumes()
    walls = frozenset(str(wall) for wall in survey())
    standing = Standing(walls=walls, unenforced=limits.missing, volumes=support)
    is_there = standing.facilities()
    return [
        _limits(limits),
        _user(is_there=bool(is_there[Facility.USER])),
        _namespaces(walls, is_there=bool(is_there[Facility.NAMESPACES])),
        _landlock(is_there=bool(is_there[Facility.LANDLOCK])),
        _seccomp(is_there=bool(is_there[Facility.SECCOMP])),
        _volumes(support),
        _encryption(support),
    ]


# Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSupport:
    """What the kernel can limit; `version` is the control groups', `missing` says why not and what helps."""

    version: int | None
    missing: Mapping[str, str]


def _try_limits() -> LimitSupport:
    try:
        return LimitSupport(**run_trial(lambda: asdict(_use_limits())))
    except TrialError as error:
        return LimitSupport(version=None, missing=dict.fromkeys(sorted(CONTROLLERS), str(error)))


def _use_limits() -> LimitSupport:
    """Put a process under limits, in a tree of our own that is gone afterwards."""
    host = inspect_host()
    # A group that was delegated to a service is only used by making its processes move: that is the
    # node's to do.
    if host.version is None or host.needs_leaf:
        return LimitSupport(version=host.version, missing=dict(host.missing))
    handed_down = _read_handed_down(host) if host.version == 2 else None
    try:
        tree = open_hierarchy(f"limpet-doctor-{os.getpid()}")
    except (CgroupUnavailableError, PermissionError) as error:
        missing = dict.fromkeys(sorted(CONTROLLERS), str(error.strerror or error))
        return LimitSupport(version=None, missing=missing)
    try:
        _limit_a_process(tree)
    finally:
        tree.remove()
        if handed_down is not None:
            _take_back(*handed_down)
    return LimitSupport(version=host.version, missing=dict(tree.missing))


def _limit_a_process(tree: Hierarchy) -> None:
    wanted = Limits(cpu_cores=0.5, memory_bytes=_TRIAL_MEMORY_BYTES, pids=64)
    values = {"cpu": "cpu_cores", "memory": "memory_bytes", "pids": "pids"}
    possible = {
        field: getattr(wanted, field)
        for controller, field in values.items()
        if controller in tree.controllers
    }
    group = tree.create("trial", Limits(**possible))
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(theirs)
        os.read(ours, 1)
        os._exit(0)
    os.close(ours)
    try:
        group.add(pid)
        group.usage()
    finally:
        os.close(theirs)
        os.waitpid(pid, 0)


def _read_handed_down(host: Availability) -> tuple[str, frozenset[str]]:
    path = f"{next(iter(host.bases.values()))}/cgroup.subtree_control"
    return path, frozenset(read_control(path).split())


def _take_back(path: str, before: frozenset[str]) -> None:
    """Switch off again what only the trial switched on; a node that started meanwhile keeps it."""
    for controller in frozenset(read_control(path).split()) - before:
        with suppress(CgroupFileError):
            write_control(path, f"-{controller}")


def _limits(support: LimitSupport) -> Finding:
    missing = support.missing
    there = sorted(CONTROLLERS - missing.keys())
    found = f"kernel limits of {', '.join(there)} (cgroup v{support.version})" if there else "none"
    details = {"version": support.version, "controllers": there, "missing": dict(missing)}
    if not missing:
        return Finding(name=Facility.CGROUP, level=Level.OK, found=found, details=details)
    lost = {"cpu": "processor time", "memory": "memory", "pids": "processes"}
    what = ", ".join(lost[name] for name in missing)
    return Finding(
        name=Facility.CGROUP,
        level=Level.MISSING,
        found=found + (f"; not of {', '.join(missing)}" if there else ""),
        without=f"no kernel limit of {what}: only the engine's own limits hold",
        fix="; ".join(dict.fromkeys(_remedy(why) for why in missing.values())),
        details=details,
    )


def _remedy(why: str) -> str:
    """Return what follows "WHAT: " in a reason, which is the same for several controllers."""
    what, _, remedy = why.partition(": ")
    return remedy or what


# Walls


def _user(*, is_there: bool) -> Finding:
    if is_there:
        return Finding(
            name=Facility.USER, level=Level.OK, found="each worker has a user of its own"
        )
    return Finding(
        name=Facility.USER,
        level=Level.MISSING,
        found="workers run as the node's own user",
        without="a worker that is broken into has the rights of that user",
        fix=_rights(),
    )


def _namespaces(walls: frozenset[str], *, is_there: bool) -> Finding:
    if is_there:
        return Finding(
            name=Facility.NAMESPACES,
            level=Level.OK,
            found="workers have an empty root, no network, no other processes",
        )
    return Finding(
        name=Facility.NAMESPACES,
        level=Level.MISSING,
        found="no empty root" if "namespaces" in walls else "workers share the device's",
        without="a worker that is broken into sees the device's network, processes and files",
        fix=_rights(),
    )


def _landlock(*, is_there: bool) -> Finding:
    from limpet.linux.landlock import abi_version

    abi = abi_version()
    lacks = [what for since, what in _LANDLOCK_RULES if abi < since]
    details = {"abi": abi, "lacks": lacks}
    if not is_there:
        return Finding(
            name=Facility.LANDLOCK,
            level=Level.MISSING,
            found="not in this kernel" if abi == 0 else f"ABI {abi}, but it can't be used",
            without="no second wall before files, TCP and other processes",
            fix=_explain_landlock(),
            details=details,
        )
    if abi < _LANDLOCK_FULL_ABI:
        return Finding(
            name=Facility.LANDLOCK,
            level=Level.HINT,
            found=f"ABI {abi}, without rules for {', '.join(lacks)}",
            without="of these only namespaces and the system call filter keep apps",
            fix="Linux 6.12 or newer",
            details=details,
        )
    return Finding(
        name=Facility.LANDLOCK,
        level=Level.OK,
        found=f"ABI {abi}: files, TCP, devices, signals",
        details=details,
    )


def _explain_landlock() -> str:
    try:
        modules = _LSM_LIST.read_text("ascii").strip()
    except OSError:
        modules = ""  # securityfs is not mounted, or not for us to see
    if modules and "landlock" not in modules.split(","):
        return (
            f"boot with `lsm=landlock,{modules}` on the kernel command line, if the kernel has it"
        )
    return "Linux 5.13 or newer with CONFIG_SECURITY_LANDLOCK; containers must allow its calls"


def _seccomp(*, is_there: bool) -> Finding:
    if is_there:
        return Finding(
            name=Facility.SECCOMP, level=Level.OK, found="workers have a filter of system calls"
        )
    return Finding(
        name=Facility.SECCOMP,
        level=Level.MISSING,
        found="this kernel or container refuses filters",
        without="a worker that is broken into can make any system call",
        fix="a kernel with CONFIG_SECCOMP_FILTER",
    )


def _rights() -> str:
    return _AS_ROOT if os.geteuid() != 0 else _IN_CONTAINER


# Volumes


def _try_volumes() -> VolumeSupport:
    if os.geteuid() != 0:
        return VolumeSupport(
            volumes=False, encryption=False, why_not="only root can mount: run the node as root"
        )
    with tempfile.TemporaryDirectory(prefix="limpet-doctor-") as folder:
        try:
            told = run_trial(lambda: asdict(_use_volumes(Path(folder))))
        except TrialError as error:
            return VolumeSupport(volumes=False, encryption=False, why_not=str(error))
    return VolumeSupport(**told)


def _use_volumes(folder: Path) -> VolumeSupport:
    """As a node does: in memory, in a mount namespace that ends with this process."""
    from limpet.linux import mount, namespaces

    namespaces.unshare(namespaces.CLONE_NEWNS)
    mount.mount(None, "/", None, flags=mount.MS_REC | mount.MS_SLAVE)
    flags = mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC
    mount.mount("limpet", folder, "tmpfs", flags=flags, data="size=32m,mode=0700")
    return try_volumes(folder)


def _volumes(support: VolumeSupport) -> Finding:
    if support.volumes:
        return Finding(
            name=Facility.VOLUMES, level=Level.OK, found="file systems of the declared size"
        )
    return Finding(
        name=Facility.VOLUMES,
        level=Level.MISSING,
        found="plain folders",
        without="an app can fill the disk: a volume's size is not enforced",
        fix=support.why_not,
    )


def _encryption(support: VolumeSupport) -> Finding:
    from limpet.linux import fscrypt

    has_aes = fscrypt.choose_modes()[0] == fscrypt.AES
    details = {"cipher": support.cipher or None, "aes_instructions": has_aes}
    if support.encryption:
        why = "this processor has AES instructions" if has_aes else "no AES instructions here"
        return Finding(
            name=Facility.ENCRYPTION,
            level=Level.OK,
            found=f"volumes by fscrypt: {support.cipher} ({why})",
            details=details,
        )
    return Finding(
        name=Facility.ENCRYPTION,
        level=Level.MISSING,
        found="volumes are not encrypted",
        without="who gets the disk reads what apps stored",
        fix=support.why_not or "a kernel with CONFIG_FS_ENCRYPTION",
        details=details,
    )
