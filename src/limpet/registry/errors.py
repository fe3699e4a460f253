"""How a download or an upload fails: for good, or for now."""

from __future__ import annotations

from limpet.errors import DeniedError, InvalidInputError, NotFoundError, TemporaryError


class FetchError(InvalidInputError):
    """A source that will not give the module, however often it is asked."""

    reason = "FetchRefused"


class FetchFailedError(TemporaryError):
    """A source that did not give the module this time; perhaps it said when to ask again."""

    reason = "FetchFailed"

    def __init__(self, message: str, *, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class UnendedError(FetchFailedError):
    """A body of no known length whose connection ended without TLS's word that this was all."""


class MissingError(NotFoundError):
    """What was asked for is not in the registry."""

    reason = "ImageNotFound"


class UnauthorizedError(DeniedError):
    """The registry wants other credentials than it was given, if any."""

    reason = "RegistryUnauthorized"


class FormatError(InvalidInputError):
    """A manifest, or what it describes, that holds no module that can be run."""

    reason = "UnsupportedImage"


class DiskFullError(TemporaryError):
    """There is no room for what is to be downloaded."""

    reason = "DiskFull"
