"""What this machine offers, found without changing anything: for `open_hierarchy` and for a doctor.

Sources: cgroups(7), proc(5) (mountinfo), and systemd's CGROUP_DELEGATION for the `delegate` attributes.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.linux.cgroup.model import CONTROLLERS
from limpet.linux.cgroup.v2 import LEAF

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MEMORY_FIX = (
    "add `cgroup_enable=memory cgroup_memory=1` to the kernel command line (Raspberry Pi OS: to the one "
    "line of /boot/firmware/cmdline.txt) and reboot"
)
_DELEGATE_FIX = "set `Delegate=cpu memory pids` in the service's systemd unit"


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted cgroup file system: where, which part of it, of what kind, with which controllers."""

    point: str
    root: str
    kind: str
    options: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """What can be limited here; `missing` says of each other controller why not and what helps."""

    version: int | None
    """2, 1 (also for hybrid mounts, whose controllers are v1's), or None when nothing can be limited."""
    bases: Mapping[str, str]
    """The directory of each controller in which the own tree is made. v1 may list cpuacct too."""
    missing: Mapping[str, str]
    needs_leaf: bool = False
    """Whether the processes in the v2 base have to move to a leaf of it first."""

    @property
    def controllers(self) -> frozenset[str]:
        """Those of cpu, memory and pids that work."""
        return CONTROLLERS & self.bases.keys()


def inspect_host(proc: str = "/proc") -> Availability:
    """Find the controllers. v2 wins when it has as many as v1. Raises OSError without /proc."""
    mounts = parse_mountinfo(_read(f"{proc}/self/mountinfo"))
    unified, needs_leaf = _find_unified(mounts, _read(f"{proc}/self/cgroup"))
    legacy = _find_legacy(mounts)
    is_unified = bool(unified) and len(unified) >= len(CONTROLLERS & legacy.keys())
    found = unified if is_unified else legacy
    bases = {key: base for key, base in found.items() if os.access(base, os.W_OK | os.X_OK)}
    missing = {}
    for controller in sorted(CONTROLLERS - bases.keys()):
        if controller in found:
            missing[controller] = (
                f"{found[controller]} can't be written: run as root, or {_DELEGATE_FIX}"
            )
        else:
            missing[controller] = explain_missing(
                controller,
                known=_read_if_there(f"{proc}/cgroups"),
                command_line=_read_if_there(f"{proc}/cmdline"),
                at_root=_read_root_controllers(mounts),
            )
    version = (2 if is_unified else 1) if CONTROLLERS & bases.keys() else None
    return Availability(
        version=version, bases=bases, missing=missing, needs_leaf=is_unified and needs_leaf
    )


def parse_mountinfo(text: str) -> list[Mount]:
    """Return the cgroup mounts of a mountinfo file, in its order."""
    mounts = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _source, *options) = left.split(" "), right.split(" ")
        if kind in {"cgroup", "cgroup2"}:
            names = frozenset(",".join(options).split(","))
            mounts.append(Mount(_unescape(fields[4]), _unescape(fields[3]), kind, names))
    return mounts


def explain_missing(
    controller: str, *, known: str, command_line: str, at_root: Sequence[str] = ()
) -> str:
    """Say why a controller is missing and what helps.

    `known` is the text of /proc/cgroups, `command_line` that of /proc/cmdline, `at_root` what the v2
    root offers. Kernels since 6.13 list only v1's controllers in /proc/cgroups, so absence proves nothing.
    """
    if controller in at_root:
        return f"the {controller} controller is not handed down to this service: {_DELEGATE_FIX}"
    rows = {fields[0]: fields for line in known.splitlines() if (fields := line.split())}
    _, hierarchy, _, enabled, *_ = rows.get(controller, ["", "0", "0", "1"])
    disabled = [
        name
        for word in command_line.split()
        if word.startswith("cgroup_disable=")
        for name in word.partition("=")[2].split(",")
    ]
    if enabled == "0" or controller in disabled:
        fix = f"take `cgroup_disable={controller}` off the kernel command line and reboot"
        fix = _MEMORY_FIX if controller == "memory" else fix
        return f"the {controller} controller is switched off at boot: {fix}"
    if hierarchy != "0":
        return (
            f"the {controller} controller belongs to a cgroup v1 hierarchy that is not mounted here: "
            "boot with `systemd.unified_cgroup_hierarchy=1`, or mount it"
        )
    if controller in rows:
        return (
            f"no cgroup file system with the {controller} controller is mounted here: "
            "`mount -t cgroup2 none /sys/fs/cgroup`"
        )
    fix = "use a kernel built with it"
    fix = f"{fix}, or {_MEMORY_FIX}" if controller == "memory" else fix
    return f"this kernel does not offer the {controller} controller: {fix}"


def _find_legacy(mounts: Sequence[Mount]) -> dict[str, str]:
    """Return the directory of each v1 controller; the mount of a hierarchy's root goes first."""
    found = {}
    legacy = [mount for mount in mounts if mount.kind == "cgroup"]
    for controller in ("cpu", "cpuacct", "memory", "pids"):
        having = [mount for mount in legacy if controller in mount.options]
        if having:
            found[controller] = min(having, key=lambda mount: mount.root != "/").point
    return found


def _find_unified(mounts: Sequence[Mount], memberships: str) -> tuple[dict[str, str], bool]:
    """Return the v2 base for each controller it offers, and whether it needs a leaf."""
    mount = next((mount for mount in mounts if mount.kind == "cgroup2"), None)
    if mount is None:
        return {}, False
    base, needs_leaf = _choose_base(mount, memberships)
    offered = CONTROLLERS.intersection(_read_if_there(f"{base}/cgroup.controllers").split())
    return dict.fromkeys(sorted(offered), base), needs_leaf


def _choose_base(mount: Mount, memberships: str) -> tuple[str, bool]:
    own = _own_directory(mount, memberships)
    base = mount.point
    if own is not None:
        # An agent that was started again finds itself in the leaf that the first one made.
        parent, _, name = own.rpartition("/")
        if name == LEAF and _is_delegated(parent):
            return parent, False
        base = own if _is_delegated(own) else base
    # Only the machine's root has no cgroup.type; a container's root is under the rules of any group.
    return base, os.path.exists(f"{base}/cgroup.type")


def _own_directory(mount: Mount, memberships: str) -> str | None:
    """Return the directory of the own v2 group; None when the mount does not show it."""
    for line in memberships.splitlines():
        if line.startswith("0::"):
            path = line.removeprefix("0::").removesuffix(" (deleted)")
            root = mount.root.rstrip("/")
            if path.startswith("/..") or not f"{path}/".startswith(f"{root}/"):
                return None
            return f"{mount.point}/{path.removeprefix(root).strip('/')}".rstrip("/")
    return None


def _is_delegated(directory: str) -> bool:
    """Tell whether systemd handed this group to us, by its mark or by its owner."""
    for attribute in ("trusted.delegate", "user.delegate"):
        # No such attribute, none on this file system, or not for us to see: not marked either way.
        with suppress(OSError):
            if os.getxattr(directory, attribute) == b"1":
                return True
    uid = os.geteuid()
    # Everything is root's, so for root ownership says nothing.
    return uid != 0 and os.path.isdir(directory) and os.stat(directory).st_uid == uid


def _read_root_controllers(mounts: Sequence[Mount]) -> list[str]:
    points = [mount.point for mount in mounts if mount.kind == "cgroup2"]
    return [name for at in points for name in _read_if_there(f"{at}/cgroup.controllers").split()]


def _unescape(path: str) -> str:
    """Undo mountinfo's octal escapes of space, tab, newline and backslash."""
    for character in " \t\n\\":
        path = path.replace(f"\\{ord(character):03o}", character)
    return path


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _read_if_there(path: str) -> str:
    try:
        return _read(path)
    except OSError:
        return ""
