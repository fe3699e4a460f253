import importlib
import pkgutil

import pytest

import limpet
from limpet import errors
from limpet.errors import LimpetError

CATEGORIES = {
    errors.InvalidInputError: (2, 400, "Invalid", False),
    errors.NotFoundError: (3, 404, "NotFound", False),
    errors.ConflictError: (4, 409, "Conflict", False),
    errors.DeniedError: (5, 403, "Forbidden", False),
    errors.UnavailableError: (6, 503, "Unavailable", False),
    errors.TemporaryError: (7, 503, "TemporaryFailure", True),
    LimpetError: (1, 500, "InternalError", False),
}


def concrete_errors():
    """Every error that any module of the package defines."""
    for module in pkgutil.walk_packages(limpet.__path__, "limpet."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, pending = set(), [LimpetError]
    while pending:
        kind = pending.pop()
        found.add(kind)
        pending += kind.__subclasses__()
    return {kind for kind in found if kind.__module__.partition(".")[0] == "limpet"}


@pytest.mark.parametrize(("kind", "expected"), CATEGORIES.items())
def test_a_category_decides_exit_code_status_and_retry(kind, expected):
    error = kind("what happened")
    assert (error.exit_code, error.http_status, error.reason, error.is_retryable) == expected
    assert str(error) == "what happened"


def test_every_error_has_one_category_and_a_reason_that_scripts_can_read():
    categories = set(CATEGORIES) - {LimpetError}
    for kind in concrete_errors():
        assert len(categories & set(kind.__mro__)) <= 1, kind
        assert isinstance(kind.reason, str), kind
        assert kind.reason[0].isupper(), kind
        assert kind.reason.isalnum(), kind
        assert kind.__doc__, kind
