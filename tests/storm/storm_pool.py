"""Runs schedules and crash images in processes of their own, several at a time, and collects what they say.

Each storm has its own mount and network namespaces: another node on this machine would hold its disk, and
could take its ports. It has no network but loopback, so all of it happens offline.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from storm_run import Outcome

STORM_SECONDS = 240.0
_PROGRAM = Path(__file__).parent
_MARK = "outcome: "


def require_root() -> None:
    """Say what is missing. Raises AssertionError."""
    assert os.geteuid() == 0, "a storm mounts a disk of its own: run it as root"


def write_outcome(outcome: Outcome) -> None:
    """Tell the pool, on standard output."""
    print(_MARK + json.dumps(asdict(outcome)), flush=True)


def run_apart(arguments: Sequence[str], *, seconds: float = STORM_SECONDS) -> dict[str, object]:
    """Run `tests/storm ARGUMENTS` apart from everything; return its outcome."""
    from storm_run import Outcome

    command = ["unshare", "--mount", "--net", "--propagation", "private", sys.executable]
    process = subprocess.Popen(
        [*command, str(_PROGRAM), *arguments, "--apart"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    how = ""
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        how = f"not over after {seconds:g} s; "
        process.terminate()
        try:
            said, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        raise
    shown, mark, told = said.rpartition(_MARK)
    if mark and not how:
        found: dict[str, object] = json.loads(told)
        return found | {"said": shown}
    failure = f"{how}ended with {process.returncode} and no outcome:\n{said[-6000:]}"
    kind, seed = (arguments[arguments.index(name) + 1] for name in ("--kind", "--seed"))
    command = f"scripts/storm {' '.join(arguments)}"
    outcome = Outcome(
        seed=int(seed), kind=kind, command=command, steps=0, seconds=seconds, failure=failure
    )
    return asdict(outcome) | {"said": said}


def run_many(
    tasks: Iterable[Sequence[str]], *, jobs: int, on_outcome: Callable[[dict[str, object]], None]
) -> None:
    """Run tasks side by side, `jobs` at a time, until there are no more."""
    from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

    waiting: Iterator[Sequence[str]] = iter(tasks)
    running: set[Future[dict[str, object]]] = set()
    with ThreadPoolExecutor(jobs) as pool:
        while True:
            while len(running) < jobs and (task := next(waiting, None)) is not None:
                running.add(pool.submit(run_apart, task))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                on_outcome(each.result())


def enter_apart() -> None:
    """Begin as the process that `run_apart` starts: loopback is up, and SIGTERM tidies up."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
