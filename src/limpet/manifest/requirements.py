"""The annotation `limpet.dev/require` and `capabilities.add`: names out of fixed lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.manifest.model import Facility
from limpet.manifest.problems import shown

if TYPE_CHECKING:
    from limpet.manifest.annotations import Annotations
    from limpet.manifest.fields import Fields

_TEXT_LENGTH = 1024

# capability.h of Linux 5.9, which has them all up to now, without CAP_.
CAPABILITIES = (
    "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE",
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL",
    "LEASE", "LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE", "MKNOD", "NET_ADMIN",
    "NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW", "PERFMON", "SETFCAP", "SETGID", "SETPCAP",
    "SETUID", "SYSLOG", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT", "SYS_MODULE", "SYS_NICE",
    "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG",
    "WAKE_ALARM",
)  # fmt: skip


def parse_requirements(annotations: Annotations) -> tuple[Facility, ...]:
    """What the app refuses to run without, sorted, each once."""
    text = annotations.get("require")
    if text is None:
        return ()
    found: set[Facility] = set()
    for name in (part.strip() for part in text[:_TEXT_LENGTH].split(",")):
        if name in set(Facility):
            found.add(Facility(name))
            continue
        hint = annotations.nearest(name, Facility)
        annotations.problem(
            "require", f"{shown(name)} is not one of {', '.join(sorted(Facility))}{hint}"
        )
    return tuple(sorted(found))


def parse_capabilities(fields: Fields) -> tuple[str, ...]:
    """`capabilities` of a container: what it adds, without CAP_, sorted, each once.

    Dropping asks for what every app gets anyway.
    """
    fields.texts("drop")
    found: set[str] = set()
    for index, text in enumerate(fields.texts("add")):
        name = text.removeprefix("CAP_")
        if name in CAPABILITIES:
            found.add(name)
        elif name == "ALL":
            fields.problem("an app never has them all; name each one", "add", index)
        else:
            hint = fields.report.nearest(name, CAPABILITIES)
            fields.problem(f"{shown(text)} is no capability of Linux{hint}", "add", index)
    fields.close()
    return tuple(sorted(found))
