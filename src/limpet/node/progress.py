"""What an app is to run, and how far its newest release has come; `limpet.node.rollouts` changes it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limpet.manifest.model import App

# What a worker says of its end is the app's own words.
_LONGEST_WORDS = 500


@dataclass(frozen=True, slots=True)
class Target:
    """Something that can be run: an app, its module's digest once that is known, and the number of
    the release (0 for an app without releases).
    """

    app: App
    digest: str | None
    number: int = 0


@dataclass(slots=True)
class Progress:
    """How a rollout goes; all times are monotonic. Not durable: after a restart it begins anew.

    `has_arrived` once all its workers were available. `crashes` counts, by slot, the ends in a row of
    the release's workers. `refusal` is what no time will mend, reason and message. `no_room` says for
    the plan `judged` why it can't run beside the old one.
    """

    progressed_at: float = field(default_factory=time.monotonic)
    available: int = 0
    is_prepared: bool = False
    has_arrived: bool = False
    available_since: float | None = None
    crashes: dict[int, int] = field(default_factory=dict)
    crash: str = ""
    refusal: tuple[str, str] | None = None
    judged: str = ""
    no_room: str | None = None

    def note_crash(self, slot: int, what: str, *, is_stable: bool) -> None:
        """Learn that a worker of the release ended; `is_stable` when it had lasted long enough."""
        self.crashes[slot] = 1 if is_stable else self.crashes.get(slot, 0) + 1
        self.crash = what[:_LONGEST_WORDS]
        self.available_since = None

    def note_state(self, *, is_prepared: bool, available: int, is_there: bool) -> None:
        """Learn how the release stands; coming forward starts its deadline anew."""
        now = time.monotonic()
        if available > self.available or (is_prepared and not self.is_prepared):
            self.progressed_at = now
        self.available = max(self.available, available)
        self.is_prepared = is_prepared
        if not is_there:
            self.available_since = None
        elif self.available_since is None:
            self.available_since = now


@dataclass(slots=True)
class Rollout:
    """What an app is to run now (`target`), and what may run until that can (`standby`).

    `is_held` leaves workers of other releases where they are, `is_on_hold` starts nothing at all,
    `is_on_trial` starts a sleeping app's new release once, to see that it can be. `wakes_at` is when its
    verdict may be due (monotonic).
    """

    target: Target
    standby: Target | None = None
    has_releases: bool = False
    is_held: bool = False
    is_on_hold: bool = False
    is_on_trial: bool = False
    wakes_at: float | None = None
    progress: Progress = field(default_factory=Progress)

    @property
    def serving_app(self) -> App:
        """The app that clients are to be led to: until a release is available, the one before."""
        if self.standby is None or self.progress.has_arrived:
            return self.target.app
        return self.standby.app

    def apps(self) -> list[App]:
        """Return every app whose sockets and volumes are to stay: what runs, and what may again."""
        if self.standby is None:
            return [self.target.app]
        return [self.target.app, self.standby.app]
