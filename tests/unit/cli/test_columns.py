import pytest

from limpet.cli.columns import status_cell

from .fake_node import make_app


@pytest.mark.parametrize(
    ("reason", "message", "shown"),
    [
        ("", "", "Pending"),
        ("PullingModule", "12.0 of 50.0 MiB", "PullingModule:24%"),
        ("PullingModule", "0.0 of 0.0 MiB", "PullingModule:0%"),
        ("PullingModule", "12.0 MiB", "PullingModule"),
        ("PullingModule", "asking for ghcr.io/acme/app:1", "PullingModule"),
        ("ImageNotFound", "1.0 of 2.0 MiB", "ImageNotFound"),
    ],
)
def test_a_status_is_one_word(reason, message, shown):
    app = make_app(phase="Pending", reason=reason, message=message)
    assert status_cell(app).text == shown
