"""What of the store is needed: by the apps, by the releases that are kept, and by what was pulled for them.

An app may name a source whose module it has not got yet by itself: its rollout is paused, or the module that
another app pulled is here. `imagePullPolicy: IfNotPresent` and a reboot without a network rely on that one.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from limpet.errors import LimpetError
from limpet.manifest.model import App
from limpet.manifest.parse import parse_object
from limpet.registry.reference import name_source
from limpet.store.database import StoreFullError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from limpet.node.modules import Modules
    from limpet.node.objects import Objects
    from limpet.store.database import Database
    from limpet.store.pulls import Pulls


class Needs:
    """Who needs what of the store, as the agent knows it (`limpet.node.disk.Uses`)."""

    def __init__(
        self, database: Database, objects: Objects, pulls: Pulls, modules: Modules
    ) -> None:
        self._database = database
        self._objects = objects
        self._pulls = pulls
        self._modules = modules

    def needed_digests(self) -> Collection[str]:
        """Return the modules that a desired object or a release needs."""
        return self._database.load_needed_digests() | self._pulls.named(self.wanted_sources())

    def wanted_sources(self) -> Collection[str]:
        """Return the sources of apps, and of releases whose modules are not known yet."""
        apps = [*self._objects.apps(), *self._unresolved()]
        return {name_source(app.source) for app in apps if app.source.scheme != "file"}

    def open_code(self) -> Collection[str]:
        """Return the names of the compiled code that something runs, or is about to."""
        return self._modules.open_artifacts()

    def forget_missing(self) -> None:
        """Forget how modules came that are gone. On a full disk the next look does it."""
        with contextlib.suppress(StoreFullError):
            self._pulls.drop_missing(kept=self._database.load_needed_digests())

    def _unresolved(self) -> Iterator[App]:
        releases = self._objects.releases
        for key in self._objects.stored:
            for release in releases.of(key)[:-1]:  # the newest is the object itself
                if release.digest is not None:
                    continue
                with contextlib.suppress(LimpetError):  # of another version: it can't be run
                    earlier = parse_object(json.loads(releases.body(key, release.number)))
                    if isinstance(earlier, App):
                        yield earlier
