"""The registry of a storm: on loopback, with images of its own, and in one of several moods."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

from storm_apps import filled

from oci_server import Behaviour, OciServer

if TYPE_CHECKING:
    from collections.abc import Callable

TAGS = range(1, 7)
_REPOSITORY = "acme/app"
_FILL_BYTES = 1 << 20
_CUT_BYTES = 150 << 10
# What it does until it is told something else. Silent: a link that is cut in the middle of a blob.
MOODS = ("well", "cutting", "silent", "refusing", "corrupt", "dead")


class Registry:
    """Has the same images in every storm; `has_lied` once it sent something that it should not have."""

    def __init__(self, port: int, module: Callable[[], bytes]) -> None:
        self._port = port
        self._module = module
        self._server: OciServer | None = None
        self.has_lied = False

    def image(self, tag: int) -> str:
        """Return what an app names to get an image."""
        return f"oci://localhost:{self._port}/{_REPOSITORY}:{tag}"

    def begin(self) -> None:
        """Be there; what was under way when it died is gone."""
        if self._server is not None:
            return
        self._server = OciServer(port=self._port)
        for tag in TAGS:
            fill = random.Random(tag).randbytes(_FILL_BYTES)
            self._server.add_module(_REPOSITORY, str(tag), filled(self._module(), fill))

    def end(self) -> None:
        """Die, in the middle of whatever it does."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def set_mood(self, mood: str) -> None:
        """Behave so from now on."""
        if mood == "dead":
            self.end()
            return
        self.begin()
        assert self._server is not None
        before, behaviour = self._server.behaviour, Behaviour()
        if mood == "cutting":
            behaviour.cuts = [_CUT_BYTES] * 4
        elif mood == "silent":
            behaviour.gate, behaviour.gate_at = threading.Event(), _FILL_BYTES // 2
        elif mood == "refusing":
            behaviour.status = 503
        elif mood == "corrupt":
            self.has_lied = True
            behaviour.body = _corrupt
        self._server.behaviour = behaviour
        if before.gate is not None:
            before.gate.set()


def _corrupt(path: str, body: bytes) -> bytes:
    """Return a large blob with one bit changed, everything else as it is."""
    if "/blobs/" not in path or len(body) < _FILL_BYTES:
        return body
    return body[:-1] + bytes([body[-1] ^ 1])
