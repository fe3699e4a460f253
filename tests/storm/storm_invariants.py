"""What must hold. To add an invariant: one function here, and its name in `SETTLED` or `ENDED`.

Those in `SETTLED` hold as soon as nothing is frozen or full, those in `ENDED` when all was deleted. Each
waits for what it wants to see, and raises AssertionError with what it saw.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
from pathlib import Path
from typing import TYPE_CHECKING

from running_node import ask, is_alive, name_of, wait_for
from storm_apps import LEDGER, SLEEPY
from storm_disk import loop_devices
from storm_traffic import find_faults
from storm_world import descriptors

if TYPE_CHECKING:
    from collections.abc import Callable

    from storm_desired import AppSpec
    from storm_world import World

_PATIENCE_SECONDS = 30.0
# Faults that take requests with them, as each says in docs/reliability.md.
_COSTS_REQUESTS = {
    *("kill worker", "kill tree", "kill launcher", "freeze worker", "freeze launcher"),
}


def settle(world: World) -> None:
    """Calm the storm, and see that everything that was acknowledged is so."""
    world.thaw(everything=True)
    world.disk.free()
    world.is_full = False
    wait_for(world.is_up, "the node")
    for invariant in SETTLED:
        invariant(world)


def acknowledged_changes_are_there(world: World) -> None:
    """Every acknowledged change is there; of the others, all or nothing."""
    wrong = world.desired.settle(world.objects())
    assert not wrong, "; ".join(wrong)


def good_apps_run_as_desired(world: World) -> None:
    """Each app answers, with the version that was asked for last."""
    for name, spec in world.desired.apps().items():
        if spec.form == "job":
            world.node.wait_phase(name, "Succeeded", _PATIENCE_SECONDS)
        elif spec.form == "good":
            _wait_app(world, name, spec)


def _wait_app(world: World, name: str, spec: AppSpec) -> None:
    def is_as_desired() -> bool:
        status = world.node.status(name)
        live = [worker for worker in status["workers"] if worker["pid"]]
        is_running = status["desired"] == status["ready"] == len(live) == spec.replicas
        return (is_running or name == SLEEPY) and _version(world, name) in (None, spec.version)

    try:
        wait_for(is_as_desired, f"{name} as desired: {spec}", _PATIENCE_SECONDS)
    except AssertionError as error:
        status = world.node.status(name)
        raise AssertionError(f"{error}; answers {_version(world, name)}; {status}") from error


def _version(world: World, name: str) -> int | None:
    """Return the version that answers, -1 for none; None for an app that does not tell."""
    if name == LEDGER:
        return None
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError):
        answer = ask(world.ports[name], seconds=3)
        if answer.status == 200:
            return int(answer.variables()["VERSION"])
    return -1


def no_process_is_left_over(world: World) -> None:
    """Exactly the workers that are wanted live; of a broken app, none or some."""
    apps = world.desired.apps()
    exact = {
        f"app:{n}"[:15]: s.replicas for n, s in apps.items() if s.form == "good" and n != SLEEPY
    }
    loose = {f"app:{n}"[:15] for n, s in apps.items() if s.form != "good" or n == SLEEPY}
    found: collections.Counter[str] = collections.Counter()

    def is_exact() -> bool:
        nonlocal found
        found = collections.Counter(name_of(pid) for pid in world.node.busy_pids())
        seen = {n: c for n, c in found.items() if n.startswith("app:") and n not in loose}
        return seen == exact

    try:
        wait_for(is_exact, "exactly the wanted processes", _PATIENCE_SECONDS)
    except AssertionError as error:
        raise AssertionError(f"{error}: {dict(found)}, wanted {exact}") from error
    for role in ("launcher", "agent", "zygote"):
        world.node.pid(role)


def no_user_is_shared(world: World) -> None:
    """No two live processes of apps have one uid."""
    uids = [uid for pid in world.node.busy_pids() if (uid := _uid(pid)) in world.uids]
    twice = [uid for uid, count in collections.Counter(uids).items() if count > 1]
    assert not twice, f"users of more than one process: {twice}"


def records_are_there_once(world: World) -> None:
    """Records on the volume: what was acknowledged, exactly once, and never two writers at once."""
    before = list(world.ledger.acknowledged)
    wait_for(lambda: len(world.ledger.acknowledged) > len(before), "a record to be written")
    world.ledger.stop()
    try:
        book = world.ledger.read()
    finally:
        world.ledger.start()
    wrong = find_faults(
        book, acknowledged=world.ledger.acknowledged, in_doubt=world.ledger.in_doubt
    )
    assert not wrong, "; ".join(wrong[:10])


def no_request_failed_without_need(world: World) -> None:
    """What does not touch the worker that serves costs no request."""
    if not _COSTS_REQUESTS & world.faults.keys():
        assert world.load.failures == [], (world.faults, world.load.failures[:5])


SETTLED: list[Callable[[World], None]] = [
    acknowledged_changes_are_there,
    good_apps_run_as_desired,
    no_process_is_left_over,
    no_user_is_shared,
    records_are_there_once,
    no_request_failed_without_need,
]


# When everything was deleted and the node has ended


def end(world: World) -> None:
    """Delete everything, stop the node, and see that nothing is left of it."""
    world.quiet()
    wait_for(world.is_up, "the node")
    world.node.delete_everything()
    wait_for(lambda: not world.node.busy_pids(), "the end of all processes of apps")
    descriptors_are_back_at_their_base(world)
    world.node.stop()
    for invariant in ENDED:
        invariant(world)
    world.disk.unmount()


def descriptors_are_back_at_their_base(world: World) -> None:
    """Launcher and agent hold open what they held before the first app, not more."""
    more: dict[str, list[str]] = {}

    def is_back() -> bool:
        nonlocal more
        for role, base in world.base_descriptors.items():
            now = collections.Counter(descriptors(world.node.pid(role)))
            more[role] = sorted((now - collections.Counter(base)).elements())
        return not any(more.values())

    try:
        wait_for(is_back, "descriptors to be closed", 10)
    except AssertionError as error:
        raise AssertionError(f"{error}: {more}") from error


def no_mount_is_left(world: World) -> None:
    """Nothing but the disk itself is mounted below the storm's folder, and no loop device is made of it."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    left = [each for each in mounts if Path(each).is_relative_to(world.directory)]
    assert left == [str(world.disk.folder)], left
    assert not loop_devices(world.disk.folder), loop_devices(world.disk.folder)


def no_control_group_is_left(world: World) -> None:
    """The node's own tree of groups is gone."""
    assert not world.control_groups(), world.control_groups()


def no_user_or_socket_is_left(world: World) -> None:
    """No process has one of the apps' users, and nobody listens at the apps' ports or the API's socket."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    left = [pid for pid in pids if _uid(pid) in world.uids and is_alive(pid)]
    assert not left, [(pid, name_of(pid)) for pid in left]
    listening = {
        int(line.split()[1].rpartition(":")[2], 16)
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    }
    assert not listening & set(world.ports.values()), listening
    assert not world.node.socket_path.exists()


def no_data_of_what_was_deleted_is_left(world: World) -> None:
    """Volumes and scratch folders of deleted apps are gone."""
    left = [
        str(path.relative_to(world.node.data))
        for folder in ("volumes", "apps")
        for path in world.node.data.glob(f"{folder}/*/*")
    ]
    assert not left, left


def _uid(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("Uid:"):
                return int(line.split()[1])
    except (OSError, ProcessLookupError):
        pass
    return -1


ENDED: list[Callable[[World], None]] = [
    no_mount_is_left,
    no_control_group_is_left,
    no_user_or_socket_is_left,
    no_data_of_what_was_deleted_is_left,
]
