"""A volume: an ext4 file system in a file of its own, mounted through a loop device.

So a volume has a hard size limit, can be encrypted as a whole, and goes at once. The image is sparse:
it takes what guests store and not what was declared. What `open` finds may have been left by a process
or a machine that died at any moment, and guests of a node that died may still use the file system:
then its device and its superblock are shared, never doubled. docs/decisions/volumes.md tells the choices.
"""

from __future__ import annotations

from limpet.store.images.errors import (
    VolumeBusyError,
    VolumeFailedError,
    VolumeKeyError,
    VolumeReadOnlyError,
    VolumeShrinkError,
    VolumeTooLargeError,
    VolumeTooSmallError,
    VolumeUnsupportedError,
)
from limpet.store.images.mounting import find_read_only
from limpet.store.images.volume import MIN_SIZE_BYTES, Usage, VolumeImage

__all__ = [
    "MIN_SIZE_BYTES",
    "Usage",
    "VolumeBusyError",
    "VolumeFailedError",
    "VolumeImage",
    "VolumeKeyError",
    "VolumeReadOnlyError",
    "VolumeShrinkError",
    "VolumeTooLargeError",
    "VolumeTooSmallError",
    "VolumeUnsupportedError",
    "find_read_only",
]
