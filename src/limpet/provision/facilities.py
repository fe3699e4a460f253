"""What a node can promise apps: one judgement, for the agent that runs them and for `limpet doctor`.

The names are those of `limpet.dev/require` (`limpet.manifest.model.Facility`).
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.errors import LimpetError
from limpet.manifest.model import Facility

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

_KEY_BYTES = 64
_TRIAL_BYTES = 8 << 20
# What each facility needs of the walls that `limpet.worker.sandbox.survey` raised in trial.
_NEEDED_WALLS = {
    Facility.USER: frozenset({"user"}),
    Facility.NAMESPACES: frozenset({"namespaces", "empty-root"}),
    Facility.LANDLOCK: frozenset({"landlock"}),
    Facility.SECCOMP: frozenset({"seccomp"}),
}


@dataclass(frozen=True, slots=True)
class VolumeSupport:
    """Whether volumes have a size limit and are encrypted here; `why_not` is for people.

    `cipher` is what encrypts them, `AES-256-XTS` or `Adiantum`; empty where nothing does.
    """

    volumes: bool
    encryption: bool
    why_not: str = ""
    cipher: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What stands between apps and the device, as far as it is known.

    `walls` holds `limpet.worker.sandbox.Wall` values, None before they were tried; `unenforced` says of
    each of cpu, memory and pids that the kernel does not limit why not; `volumes` is None before it
    was tried.
    """

    walls: frozenset[str] | None
    unenforced: Mapping[str, str]
    volumes: VolumeSupport | None = None

    def facilities(self) -> dict[Facility, bool | None]:
        """Tell of each facility whether it is there; None where that is not known yet."""
        found: dict[Facility, bool | None] = {Facility.CGROUP: not self.unenforced}
        for facility, needed in _NEEDED_WALLS.items():
            found[facility] = None if self.walls is None else needed <= self.walls
        support = self.volumes
        found[Facility.VOLUMES] = None if support is None else support.volumes
        found[Facility.ENCRYPTION] = None if support is None else support.encryption
        return {facility: found[facility] for facility in Facility}

    def available(self) -> frozenset[Facility]:
        """Return the facilities that are known to be there."""
        return frozenset(facility for facility, is_there in self.facilities().items() if is_there)

    def missing_walls(self) -> list[Facility]:
        """Return the facilities of a process's own that are known to be missing, by name."""
        found = self.facilities()
        return sorted(facility for facility in _NEEDED_WALLS if found[facility] is False)


def explain_missing_walls(missing: Collection[str], *, is_root: bool) -> str:
    """Say in a few words why these walls are missing; nothing when none is."""
    if not missing:
        return ""
    if not is_root and {Facility.USER, Facility.NAMESPACES}.issuperset(missing):
        return "the node does not run as root"
    return "this kernel or container refuses them" + (
        "" if is_root else " to a user who is not root"
    )


def try_volumes(folder: Path) -> VolumeSupport:
    """Make, mount and remove a small volume below `folder`, which lies in memory."""
    from limpet.store.images import VolumeImage

    why_not = ""
    for key in (os.urandom(_KEY_BYTES), None):
        image = VolumeImage(
            folder / "survey",
            folder / "survey-mount",
            size_bytes=_TRIAL_BYTES,
            key=key,
            name="of the survey",
        )
        try:
            cipher = _read_cipher(image.open())
            return VolumeSupport(
                volumes=True, encryption=key is not None, why_not=why_not, cipher=cipher
            )
        except LimpetError as error:
            why_not = why_not or str(error)
        finally:
            with contextlib.suppress(LimpetError):
                image.remove()
    return VolumeSupport(volumes=False, encryption=False, why_not=why_not)


def _read_cipher(folder: int) -> str:
    """Name what encrypts an open folder; closes it."""
    from limpet.linux import fscrypt

    try:
        policy = fscrypt.get_policy(folder)
    except OSError as error:
        if not fscrypt.is_unsupported(error):
            raise
        policy = None
    finally:
        os.close(folder)
    if policy is None:
        return ""
    return "Adiantum" if policy.modes == fscrypt.ADIANTUM else "AES-256-XTS"
