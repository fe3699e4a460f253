"""The kinds of storms, by name: what `scripts/storm` goes through in turn."""

from __future__ import annotations

import time
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING

from crash_histories import (
    KeyringFile,
    Modules,
    SmallFiles,
    StateFile,
    check_images,
    record_history,
)
from storm_cuts import run_cuts
from storm_run import Outcome, run_schedule, schedule_of
from storm_schedule import DEFAULT_STEPS

if TYPE_CHECKING:
    from collections.abc import Sequence

SUBJECTS = {"state": StateFile, "modules": Modules, "files": SmallFiles, "keyring": KeyringFile}
SCHEDULE, CUTS = "schedule", "cuts"
# Schedules take most of the time; a history's images take a second.
KINDS = (
    SCHEDULE,
    *(kind for name in SUBJECTS for kind in (f"images-{name}", SCHEDULE)),
    CUTS,
)
_CHANGES, _IMAGES = 40, 300


def run_kind(
    kind: str,
    seed: int,
    *,
    steps: int = DEFAULT_STEPS,
    only: Sequence[int] = (),
    verbose: bool = False,
) -> Outcome:
    """Run one storm of this kind; what the product did wrong is in the outcome."""
    if kind == SCHEDULE:
        outcome = run_schedule(schedule_of(seed, steps=steps, only=only), verbose=verbose)
    elif kind == CUTS:
        outcome = run_cuts(seed)
    else:
        outcome = _run_images(kind.removeprefix("images-"), seed)
    length = "" if steps == DEFAULT_STEPS else f" --steps {steps}"
    return replace(
        outcome, kind=kind, command=f"scripts/storm --kind {kind} --seed {seed}{length} --verbose"
    )


def _run_images(name: str, seed: int) -> Outcome:
    started = time.monotonic()
    images, failure = 0, ""
    try:
        history = record_history(SUBJECTS[name], seed, changes=_CHANGES)
        images = check_images(SUBJECTS[name], history, seed, images=_IMAGES)
    except Exception:
        failure = traceback.format_exc()
    seconds = time.monotonic() - started
    return Outcome(seed=seed, steps=_CHANGES, seconds=seconds, images=images, failure=failure)
