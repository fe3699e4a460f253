"""Runs one schedule against a node of its own, and says what came of it."""

from __future__ import annotations

import collections
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shifted_clock import HAS_COMPILER
from storm_invariants import end, settle
from storm_operations import CHOICES, OPERATIONS
from storm_schedule import DEFAULT_STEPS, make_schedule
from storm_world import World, storm_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storm_schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one schedule did, and how it failed if it did; plain data."""

    seed: int
    steps: int
    seconds: float
    kind: str = ""
    command: str = ""  # runs it again
    images: int = 0
    operations: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    answered: int = 0
    failed: int = 0
    records: int = 0
    failure: str = ""


def schedule_of(seed: int, *, steps: int = DEFAULT_STEPS, only: Sequence[int] = ()) -> Schedule:
    """Return a seed's schedule; `only` keeps these of its steps."""
    schedule = make_schedule(seed, CHOICES, steps=steps)
    return schedule.only(only) if only else schedule


def run_schedule(schedule: Schedule, *, verbose: bool = False) -> Outcome:
    """Carry a schedule out. Never raises for what the product did: that is in the outcome."""
    started = time.monotonic()
    failure = ""
    with storm_folder() as folder:
        jumps = any(step.operation == "clock" for _, step in schedule.steps)
        with_clock = jumps and HAS_COMPILER
        world = World(folder, with_clock=with_clock, is_sparse=schedule.seed % 2 == 1)
        try:
            _carry_out(world, schedule, verbose=verbose)
        except Exception:
            failure = f"{traceback.format_exc()}\n{world.last_words()}"
        finally:
            world.abandon()
        return Outcome(
            seed=schedule.seed,
            steps=len(schedule.steps),
            seconds=time.monotonic() - started,
            operations=dict(collections.Counter(step.operation for _, step in schedule.steps)),
            faults=world.faults,
            refused=world.refused,
            answered=world.load.answered,
            failed=len(world.load.failures),
            records=len(world.ledger.acknowledged),
            failure=failure,
        )


def _carry_out(world: World, schedule: Schedule, *, verbose: bool) -> None:
    world.begin()
    begun = time.monotonic()
    for number, step in schedule.steps:
        world.step = number
        world.thaw()
        if verbose:
            print(f"{time.monotonic() - begun:6.2f} s  {number:2} {step}", flush=True)
        OPERATIONS[step.operation].run(world, **dict(step.arguments))
    if verbose:
        print(f"{time.monotonic() - begun:6.2f} s  all must be well", flush=True)
    settle(world)
    end(world)
