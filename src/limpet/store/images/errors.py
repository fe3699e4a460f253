"""Why a volume can't be had; the file system's own reasons are in `limpet.store.ext4`."""

from __future__ import annotations

from limpet.errors import (
    ConflictError,
    DeniedError,
    InvalidInputError,
    TemporaryError,
    UnavailableError,
)


class VolumeTooSmallError(InvalidInputError):
    """A declared size below what a file system needs."""

    reason = "VolumeTooSmall"


class VolumeShrinkError(ConflictError):
    """A declared size below that of the existing volume."""

    reason = "VolumeShrinkRefused"


class VolumeTooLargeError(UnavailableError):
    """A declared size that the disk under the volume can't hold."""

    reason = "VolumeTooLarge"


class VolumeKeyError(DeniedError):
    """The volume is encrypted with another key, or isn't encrypted though it should be."""

    reason = "VolumeKeyRefused"


class VolumeUnsupportedError(UnavailableError):
    """This machine lacks loop devices, ext4, encryption or the right to use them."""

    reason = "VolumeUnsupported"


class VolumeBusyError(TemporaryError):
    """Another process works on the volume."""

    reason = "VolumeBusy"


class VolumeReadOnlyError(VolumeBusyError):
    """The volume became read-only after an error, and can't be checked while guests use it."""

    reason = "VolumeReadOnly"


class VolumeFailedError(TemporaryError):
    """The kernel refused something that usually works; the message says what."""

    reason = "VolumeFailed"
