"""What a storm may do. To add an operation: one function here, and its line in `OPERATIONS` at the end.

An operation gets the world and its step's arguments. It may find nothing to act upon, as steps are made
without knowing what there will be; what it changes in the node it remembers through the world.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from running_node import is_alive, wait_for
from storm_apps import BROKEN, FILED, LEDGER, NAMES, PULLED, SERVED, SLEEPY
from storm_bundles import DAMAGE
from storm_desired import AppSpec
from storm_installation import BROKEN as BROKEN_VERSIONS
from storm_manifests import FILES
from storm_registry import MOODS, TAGS
from storm_schedule import Choice
from storm_world import OTHERS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from storm_world import World

_OWN = (SERVED, LEDGER, SLEEPY, *NAMES)
_ALL = (PULLED, FILED, *_OWN)


def apply(world: World, name: str, version: int, replicas: int, salt: int) -> None:
    """Apply a good app, new or changed; `salt` makes it a module that was never compiled."""
    world.apply(AppSpec(name, version, replicas, salt=salt))


def update(world: World, name: str, version: int) -> None:
    """Give an app another version, and nothing else."""
    before = world.spec(name)
    if before is not None:
        world.apply(replace(before, version=version, form="good"))


def break_app(world: World, name: str, how: str, version: int) -> None:
    """Update an app to something that can't work."""
    before = world.spec(name) or AppSpec(name, 0)
    world.apply(replace(before, version=version, form=how))


def scale(world: World, name: str, replicas: int) -> None:
    """Give an app another number of replicas."""
    before = world.spec(name)
    if before is not None:
        world.apply(replace(before, replicas=replicas))


def delete(world: World, name: str) -> None:
    """Delete an app."""
    if world.spec(name) is not None:
        world.delete(name)


def run_job(world: World, name: str, version: int) -> None:
    """Have something run once."""
    world.apply(AppSpec(name, version, form="job"))


def kill(world: World, target: str, which: int) -> None:
    """kill -9 of one process."""
    found = world.find(target)
    if found:
        pid = found[which % len(found)]
        world.note_fault(f"kill {_role(target)}")
        world.signal(pid, signal.SIGKILL)
        wait_for(lambda: not is_alive(pid), "the end of what was killed")
        if target == "launcher":
            world.restart()


def kill_compiler(world: World, name: str, version: int, salt: int) -> None:
    """kill -9 of the process that compiles an app's new module, if it is seen in time."""
    before = world.spec(name) or AppSpec(name, 0)
    if not world.apply(replace(before, version=version, salt=salt, form="good")):
        return
    for _ in range(200):
        found = world.find("compile")
        for pid in found:
            world.signal(pid, signal.SIGKILL)
        if found:
            world.note_fault("kill compile")
            return


def cut_power(world: World) -> None:
    """kill -9 of everything at once; what was written stays, as a kill is no crash of the kernel."""
    world.note_fault("kill tree")
    world.node.kill()
    world.restart()


def freeze(world: World, target: str, steps: int) -> None:
    """SIGSTOP; SIGCONT comes some steps later."""
    found = world.find(target)
    if found:
        world.note_fault(f"freeze {_role(target)}")
        world.freeze(found[0], steps=steps)


def fill_disk(world: World) -> None:
    """Leave the node no room at all."""
    world.note_fault("disk full")
    world.is_full = True
    world.disk.fill()


def free_disk(world: World) -> None:
    """Give the room back."""
    world.is_full = False
    world.disk.free()


def set_clock(world: World, offset_seconds: int) -> None:
    """Let the wall clock jump, where there is a compiler for what does it."""
    if world.clock is not None:
        world.note_fault("clock")
        world.clock.shift(offset_seconds)


def pull(world: World, version: int, tag: int, mood: str) -> None:
    """Apply an app whose module is an image, while the registry is in some mood."""
    set_mood(world, mood)
    world.apply(AppSpec(PULLED, version, image=world.registry.image(tag)))


def set_mood(world: World, mood: str) -> None:
    """Have the registry be well, die, lie, cut links or fall silent in the middle of a blob."""
    if mood != "well":
        world.note_fault(f"registry {mood}")
    world.registry.set_mood(mood)


def roll(world: World, name: str, action: str, which: int) -> None:
    """Undo an app's rollout to a release that is kept, pause or resume it."""
    world.roll(name, action, which)


def write_file(world: World, file: str, what: str, version: int) -> None:
    """Write, break or remove a file in the manifests folder."""
    world.write_file(file, what, version)


def apply_bundle(world: World, name: str, version: int, salt: int, how: str, percent: int) -> None:
    """Apply a bundle, which may be damaged at a part of its length."""
    if how != "whole":
        world.note_fault(f"bundle {how}")
    world.apply_bundle(AppSpec(name, version, salt=salt), how, percent / 100)


def upgrade(world: World, version: str) -> None:
    """Have a version of Limpet tried, which may be broken."""
    world.upgrade(version)


def look(world: World) -> None:
    """See in the middle of it all that everything is as it should be."""
    from storm_invariants import settle

    settle(world)


def _role(target: str) -> str:
    return target if target in ("agent", "zygote", "launcher", *OTHERS) else "worker"


@dataclass(frozen=True, slots=True)
class Operation:
    """A step that schedules may have."""

    run: Callable[..., None]
    choice: Choice


def _operation(
    run: Callable[..., None], weight: int, **arguments: Callable[[random.Random], object]
) -> Operation:
    return Operation(
        run, Choice(weight, lambda chance: {k: make(chance) for k, make in arguments.items()})
    )


def _one_of(*values: object) -> Callable[[random.Random], object]:
    return lambda chance: chance.choice(values)


def _number(low: int, high: int) -> Callable[[random.Random], object]:
    return lambda chance: chance.randint(low, high)


_VERSION = _number(2, 999)
_DAY = 86_400
_OFFSETS = (0, 3600, -3600, 400 * _DAY, -3000 * _DAY)

OPERATIONS: dict[str, Operation] = {
    "apply": _operation(
        apply, 8, name=_one_of(*NAMES), version=_VERSION, replicas=_number(1, 2),
        salt=_one_of(0, 0, 1, 2),
    ),
    "update": _operation(update, 8, name=_one_of(*_OWN), version=_VERSION),
    "break": _operation(
        break_app, 4, name=_one_of(SERVED, SERVED, *NAMES), how=_one_of(*BROKEN), version=_VERSION
    ),
    "scale": _operation(scale, 3, name=_one_of(*NAMES, SERVED), replicas=_number(1, 3)),
    "delete": _operation(delete, 4, name=_one_of(*NAMES, PULLED)),
    "job": _operation(run_job, 2, name=_one_of("job-1", "job-2"), version=_VERSION),
    "kill": _operation(
        kill, 10, target=_one_of("agent", "agent", "zygote", "launcher", *OTHERS[1:], *_ALL),
        which=_number(0, 5),
    ),
    "kill-compiler": _operation(
        kill_compiler, 2, name=_one_of(*NAMES), version=_VERSION, salt=_number(10, 1 << 30)
    ),
    "cut-power": _operation(cut_power, 3),
    "freeze": _operation(
        freeze, 4, target=_one_of("agent", "zygote", "launcher", SERVED, LEDGER), steps=_number(1, 2)
    ),
    "fill-disk": _operation(fill_disk, 3),
    "free-disk": _operation(free_disk, 3),
    "clock": _operation(set_clock, 3, offset_seconds=_one_of(*_OFFSETS)),
    "pull": _operation(
        pull, 4, version=_VERSION, tag=_one_of(*TAGS), mood=_one_of("well", *MOODS)
    ),
    "registry": _operation(set_mood, 3, mood=_one_of(*MOODS)),
    "rollout": _operation(
        roll, 6, name=_one_of(SERVED, LEDGER, PULLED, *NAMES),
        action=_one_of("undo", "undo", "undo", "pause", "resume"), which=_number(0, 9),
    ),
    "manifests": _operation(
        write_file, 5, file=_one_of(*FILES), what=_one_of("write", "write", "break", "remove"),
        version=_VERSION,
    ),
    "bundle": _operation(
        apply_bundle, 3, name=_one_of(*NAMES), version=_VERSION, salt=_one_of(0, 3, 4),
        how=_one_of(*DAMAGE), percent=_number(1, 99),
    ),
    "upgrade": _operation(upgrade, 4, version=_one_of(*["good"] * 3, *BROKEN_VERSIONS)),
    "look": _operation(look, 2),
}  # fmt: skip

CHOICES = {name: operation.choice for name, operation in OPERATIONS.items()}
