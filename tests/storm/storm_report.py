"""What many storms came to: figures for people and for docs/reliability.md. Pure."""

from __future__ import annotations

import collections
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tally:
    """The sum of outcomes."""

    kinds: collections.Counter[str] = field(default_factory=collections.Counter)
    operations: collections.Counter[str] = field(default_factory=collections.Counter)
    faults: collections.Counter[str] = field(default_factory=collections.Counter)
    sums: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def add(self, outcome: dict[str, Any]) -> None:
        """Take one outcome."""
        self.kinds[outcome["kind"]] += 1
        self.operations.update(outcome["operations"])
        self.faults.update(outcome["faults"])
        for name in ("answered", "failed", "records", "refused", "images", "steps"):
            self.sums[name] += outcome[name]
        if outcome["failure"]:
            self.failures.append(
                {each: outcome[each] for each in ("kind", "seed", "command", "failure")}
            )

    def document(self, seconds: float) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return {
            "seconds": round(seconds),
            "storms": dict(sorted(self.kinds.items())),
            "steps": self.sums["steps"],
            "operations": dict(sorted(self.operations.items())),
            "faults": dict(sorted(self.faults.items())),
            "crash_images": self.sums["images"],
            "requests_answered": self.sums["answered"],
            "requests_failed": self.sums["failed"],
            "records_acknowledged": self.sums["records"],
            "changes_refused": self.sums["refused"],
            "failures": self.failures,
        }


def render(document: dict[str, Any]) -> str:
    """Return the table that ends a run."""
    storms = ", ".join(f"{count} {kind}" for kind, count in document["storms"].items())
    lines = [
        f"storms                {storms}",
        f"time                  {document['seconds']} s",
        f"steps                 {document['steps']}",
        f"crash images          {document['crash_images']}",
        f"requests              {document['requests_answered']} answered, "
        f"{document['requests_failed']} failed",
        f"records acknowledged  {document['records_acknowledged']}",
        f"changes refused       {document['changes_refused']}",
        "",
        *_columns("operation", document["operations"]),
        "",
        *_columns("fault", document["faults"]),
        "",
    ]
    for failure in document["failures"]:
        last = failure["failure"].strip().split("\nthe node said:")[0].splitlines()[-1]
        lines += [
            f"FAILED {failure['kind']}, seed {failure['seed']}: {last}",
            f"  {failure['command']}",
        ]
    return "\n".join([*lines, f"{len(document['failures'])} failures"])


def _columns(title: str, counts: dict[str, int]) -> list[str]:
    width = max([len(title), *map(len, counts)])
    return [f"{title:{width}}  times", *(f"{name:{width}}  {n:5}" for name, n in counts.items())]
