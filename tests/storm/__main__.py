"""`scripts/storm`: random schedules against real nodes, and power cuts, for as long as you like.

scripts/storm --minutes 60 --jobs 2 --json storm.json   an hour of everything
scripts/storm --seed 1234 --verbose                     one schedule again, step by step
scripts/storm --seed 1234 --steps 20                    a longer one, which begins alike
scripts/storm --seed 1234 --only 0,3,7                  without the other steps: shrink by hand
scripts/storm --seed 1234 --print                       only show the schedule
scripts/storm --kind images-state --seed 1234           one history's crash images again
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

_HERE = Path(__file__).parent
_TESTS = _HERE.parent
sys.path[:0] = [str(_HERE), str(_TESTS / "process"), str(_TESTS), str(_TESTS.parent / "src")]

from storm_kinds import KINDS, run_kind  # noqa: E402
from storm_pool import enter_apart, require_root, run_apart, run_many, write_outcome  # noqa: E402
from storm_report import Tally, render  # noqa: E402
from storm_run import schedule_of  # noqa: E402
from storm_schedule import DEFAULT_STEPS  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/storm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, help="how long to go on (default: one seed)")
    parser.add_argument("--seed", type=int, help="the seed, or the first of many; default: random")
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="steps of a schedule")
    parser.add_argument("--only", default="", help="numbers of the steps to keep")
    parser.add_argument("--kind", choices=sorted(set(KINDS)), help="only storms of this kind")
    parser.add_argument("--jobs", type=int, default=1, help="storms at a time (default 1)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--verbose", action="store_true", help="show each step")
    parser.add_argument("--print", action="store_true", help="show the schedule and do nothing")
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _tasks(options: argparse.Namespace, seed: int, until: float) -> Iterator[list[str]]:
    """Yield storms of every kind in turn, each with its own seed, until the time is over."""
    kinds = [options.kind] if options.kind else list(KINDS)
    for number in itertools.count():
        if time.monotonic() > until:
            return
        kind = kinds[number % len(kinds)]
        task = ["--kind", kind, "--seed", str(seed + number), "--steps", str(options.steps)]
        yield task


def _storm(options: argparse.Namespace, seed: int) -> int:
    """Go on for the time that was asked for; tell, and return the exit code."""
    started = time.monotonic()
    tally = Tally()

    def on_outcome(outcome: dict[str, object]) -> None:
        tally.add(outcome)
        verdict = "FAILED" if outcome["failure"] else "ok"
        print(f"{outcome['kind']:9} {outcome['seed']:>12}  {verdict}", flush=True)
        if outcome["failure"]:
            print(f"{outcome['failure']}\nagain: {outcome['command']}", flush=True)

    try:
        tasks = _tasks(options, seed, started + options.minutes * 60)
        run_many(tasks, jobs=options.jobs, on_outcome=on_outcome)
    except KeyboardInterrupt:
        print("stopped early", file=sys.stderr)
    document = tally.document(time.monotonic() - started)
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    print(f"\n{render(document)}")
    return 1 if tally.failures else 0


def main() -> int:
    options = _parse()
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(4), "big")
    kind = options.kind or KINDS[0]
    only = [int(number) for number in options.only.split(",") if number]
    if options.print:
        print(schedule_of(seed, steps=options.steps, only=only))
        return 0
    if options.apart:
        enter_apart()
        write_outcome(run_kind(kind, seed, steps=options.steps, only=only, verbose=options.verbose))
        return 0
    require_root()
    if options.minutes is not None:
        return _storm(options, seed)
    outcome = run_apart(_arguments(options, kind, seed))
    print(f"{outcome.pop('said')}{json.dumps(outcome | {'failure': bool(outcome['failure'])})}")
    print(outcome["failure"])
    return 1 if outcome["failure"] else 0


def _arguments(options: argparse.Namespace, kind: str, seed: int) -> list[str]:
    only = ["--only", options.only] if options.only else []
    verbose = ["--verbose"] if options.verbose else []
    return ["--kind", kind, "--seed", str(seed), "--steps", str(options.steps), *only, *verbose]


if __name__ == "__main__":
    sys.exit(main())
