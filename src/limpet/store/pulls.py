"""What was pulled: which module a source turned out to be, and the signatures that came with it.

Kept in the state, which is encrypted and authenticated: offline, this is what says that a tag is here, and
what a signature policy judges. A source that moved on has a row for each module it has been.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.store.database import now

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from limpet.store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """`source` is `oci://...` or `https://...`, `module` and `manifest` (of an image) are digests.

    `evidence` is `limpet.registry.signatures`' text, empty when no signature was asked for.
    `extracted_from` is the manifest of the image whose layer this node itself took the module out of, empty
    where the module is a layer or somebody else says that it is of the image.
    """

    source: str
    module: str
    manifest: str = ""
    evidence: str = ""
    extracted_from: str = ""
    pulled_at: float = 0.0


class Pulls:
    """The table. `has_module` says whether a module is on disk: a pull without it is forgotten."""

    def __init__(self, database: Database, has_module: Callable[[str], bool]) -> None:
        self._database = database
        self._has_module = has_module

    def latest(self, source: str) -> Pull | None:
        """The last pull of a source whose module is here."""
        found = [pull for pull in self._of(source) if self._has_module(pull.module)]
        return max(found, key=lambda pull: pull.pulled_at, default=None)

    def of_module(self, source: str, module: str) -> Pull | None:
        """How a module came from a source."""
        return next((pull for pull in self._of(source) if pull.module == module), None)

    def named(self, sources: Collection[str]) -> frozenset[str]:
        """The modules that these sources are, as far as they are here: each one's last pull."""
        latest: dict[str, tuple[float, str]] = {}
        for source, module, pulled_at in self._database.read(
            "SELECT source, module, pulled_at FROM pulls"
        ):
            if source in sources and self._has_module(str(module)):
                found = (float(str(pulled_at)), str(module))
                latest[str(source)] = max(found, latest.get(str(source), found))
        return frozenset(module for _, module in latest.values())

    def drop_missing(self, *, kept: Collection[str] = ()) -> None:
        """Forget the pulls whose modules are gone, but for `kept`: those were lost, and are had again by it.

        Raises `StoreFullError`.
        """
        rows = self._database.read("SELECT source, module FROM pulls")
        gone = [
            (str(source), str(module))
            for source, module in rows
            if not (module in kept or self._has_module(str(module)))
        ]
        if gone:
            self._database.write("DELETE FROM pulls WHERE source = ? AND module = ?", gone)

    def write(self, pull: Pull) -> None:
        """Remember a pull, durably. Raises `StoreFullError`."""
        last = max((other.pulled_at for other in self._of(pull.source)), default=0.0)
        # The last pull counts, whatever the clock has done since the one before.
        pulled_at = max(pull.pulled_at or now(), last + 1e-3)
        self._database.write(
            "INSERT OR REPLACE INTO pulls"
            " (source, module, manifest, evidence, extracted_from, pulled_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [(*_row(pull), pulled_at)],
        )

    def amend(self, pull: Pull) -> None:
        """Write down what was learned of an earlier pull, which stays as old as it is.

        Raises `StoreFullError`.
        """
        self._database.write(
            "UPDATE pulls SET manifest = ?, evidence = ?, extracted_from = ?"
            " WHERE source = ? AND module = ?",
            [(pull.manifest, pull.evidence, pull.extracted_from, pull.source, pull.module)],
        )

    def _of(self, source: str) -> list[Pull]:
        rows = self._database.read(
            "SELECT source, module, manifest, evidence, extracted_from, pulled_at FROM pulls"
            " WHERE source = ?",
            (source,),
        )
        return [
            Pull(
                source=str(source),
                module=str(module),
                manifest=str(manifest),
                evidence=str(evidence),
                extracted_from=str(extracted_from),
                pulled_at=float(str(pulled_at)),
            )
            for source, module, manifest, evidence, extracted_from, pulled_at in rows
        ]


def _row(pull: Pull) -> tuple[str, str, str, str, str]:
    return pull.source, pull.module, pull.manifest, pull.evidence, pull.extracted_from
