"""What tells a volume's key: a file beside its image, written before the image is made."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from limpet.errors import UnavailableError
from limpet.store.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

_NAME = "volume.json"


class VolumeIdentityError(UnavailableError):
    """The file that tells a volume's key is not what the node wrote."""

    reason = "VolumeIdentityDamaged"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a volume's key is derived from; `generation` is the node key's, 0 without encryption."""

    id: str
    generation: int


def read_identity(folder: Path, generation: int) -> Identity:
    """Return a volume's identity, made before the volume is; `generation` is for a new one.

    Raises VolumeIdentityError.
    """
    path = folder / _NAME
    if path.exists() and (folder / "volume.img").exists():
        try:
            return Identity(**json.loads(path.read_bytes()))
        except (ValueError, TypeError) as error:
            raise VolumeIdentityError(
                f"{path} is damaged, and without it nobody can tell the volume's key: restore it "
                "from a backup, or remove the claim and what is in it"
            ) from error
    identity = Identity(os.urandom(16).hex(), generation)
    write_atomically(path, json.dumps(asdict(identity)).encode())
    return identity
