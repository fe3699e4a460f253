"""What is wrong with a bundle."""

from __future__ import annotations

from limpet.errors import DeniedError, InvalidInputError


class BundleError(InvalidInputError):
    """A file that is no bundle, or not a whole one; nothing of it was used."""

    reason = "InvalidBundle"


class UntrustedBundleError(DeniedError):
    """A bundle without the signature that was demanded."""

    reason = "UntrustedBundle"
