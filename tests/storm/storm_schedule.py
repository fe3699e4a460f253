"""A schedule: the steps of one storm, made from a seed alone. Pure data that prints as it is replayed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

DEFAULT_STEPS = 10


@dataclass(frozen=True, slots=True)
class Step:
    """One operation and what it is given."""

    operation: str
    arguments: tuple[tuple[str, object], ...] = ()

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments)
        return f"{self.operation}({given})"


@dataclass(frozen=True, slots=True)
class Choice:
    """How schedules come by an operation: how often, and with which arguments."""

    weight: int
    arguments: Callable[[random.Random], Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """The numbered steps of one storm; `seed` makes them again."""

    seed: int
    steps: tuple[tuple[int, Step], ...]

    def __str__(self) -> str:
        return "\n".join([f"seed {self.seed}:", *(f"  {at:2} {step}" for at, step in self.steps)])

    def only(self, numbers: Sequence[int]) -> Schedule:
        """Return the schedule without all steps but these: shrinking by hand."""
        return Schedule(self.seed, tuple(each for each in self.steps if each[0] in numbers))


def make_schedule(
    seed: int, choices: Mapping[str, Choice], *, steps: int = DEFAULT_STEPS
) -> Schedule:
    """Return the schedule of a seed. Longer ones begin with the steps of shorter ones."""
    chance = random.Random(seed)
    names = sorted(choices)
    weights = [choices[name].weight for name in names]
    made = []
    for number in range(steps):
        name = chance.choices(names, weights)[0]
        arguments = choices[name].arguments(random.Random(chance.getrandbits(64)))
        made.append((number, Step(name, tuple(arguments.items()))))
    return Schedule(seed, tuple(made))
