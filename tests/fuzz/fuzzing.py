"""What all fuzz targets have: a loop over inputs, and a command line with a time and a seed."""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from itertools import count
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

SLOW_SECONDS = 5.0

Input = TypeVar("Input")
Found = TypeVar("Found")


def check_inputs(
    make: Callable[[random.Random], Input],
    check: Callable[[Input], int],
    *,
    seed: int,
    seconds: float,
    inputs: int | None,
) -> tuple[int, int]:
    """Check what `make` makes until time or `inputs` are used up; how many, and the sum of the checks.

    An input whose check raises, or takes longer than `SLOW_SECONDS`, is printed; what it raised goes on.
    """
    rng = random.Random(seed)
    end = time.monotonic() + seconds
    found = 0
    for done in count():
        begun = time.monotonic()
        if begun >= end or done == inputs:
            return done, found
        data = make(rng)
        try:
            found += check(data)
            if time.monotonic() - begun > SLOW_SECONDS:
                raise TimeoutError(f"an input took more than {SLOW_SECONDS:g} seconds")
        except BaseException:
            sys.stderr.write(f"seed {seed}, input {done}: {data!r}\n")
            raise
    raise AssertionError("unreachable")


def run(
    fuzz: Callable[..., Found], *, description: str, summary: Callable[[Found], str]
) -> NoReturn:
    """Call `fuzz(seed=, seconds=)`, print the summary of what it returns, and exit.

    The exit code is 1, after a traceback, when it raised; the description's first line is shown by --help.
    """
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="for how long (10)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (0)")
    options = parser.parse_args()
    try:
        found = fuzz(seed=options.seed, seconds=options.seconds)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    print(summary(found))
    sys.exit(0)
