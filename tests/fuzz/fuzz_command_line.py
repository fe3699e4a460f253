"""The command line that all fuzz targets have: for how long, and from which seed."""

from __future__ import annotations

import argparse
import sys
import traceback
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

Found = TypeVar("Found")


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
