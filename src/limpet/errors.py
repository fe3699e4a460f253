"""The root error and the few categories that decide exit code, HTTP status and retry.

Concrete errors live beside the code that raises them and subclass exactly one category.
Only the translators (the CLI's, the API's) look at `exit_code` and `http_status`; everything else
raises and lets go. A message says what happened, to what, and what to do next.
"""


class LimpetError(Exception):
    """Root of every error that Limpet raises on purpose.

    `exit_code` is what the CLI exits with, `http_status` what the API answers, `reason` the
    CamelCase word that events and JSON carry, `is_retryable` whether the same call may succeed
    later without anybody changing anything.
    """

    exit_code = 1
    http_status = 500
    reason = "InternalError"
    is_retryable = False


class InvalidInputError(LimpetError):
    """What the caller gave can't be used as it is: a manifest, an option, a module."""

    exit_code = 2
    http_status = 400
    reason = "Invalid"


class NotFoundError(LimpetError):
    """The named thing does not exist."""

    exit_code = 3
    http_status = 404
    reason = "NotFound"


class ConflictError(LimpetError):
    """The request contradicts what exists: a name or a port that is taken."""

    exit_code = 4
    http_status = 409
    reason = "Conflict"


class DeniedError(LimpetError):
    """The caller or the app is not allowed to do this."""

    exit_code = 5
    http_status = 403
    reason = "Forbidden"


class UnavailableError(LimpetError):
    """Something this needs is missing here, and waiting will not bring it."""

    exit_code = 6
    http_status = 503
    reason = "Unavailable"


class TemporaryError(LimpetError):
    """It failed now and may work later: the caller may try again."""

    exit_code = 7
    http_status = 503
    reason = "TemporaryFailure"
    is_retryable = True
