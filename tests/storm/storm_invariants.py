"""What must hold. To add an invariant: one function here, and its name in `SETTLED` or `ENDED`.

Those in `SETTLED` hold as soon as nothing is frozen or full, those in `ENDED` when all was deleted. Each
waits for what it wants to see, and raises AssertionError with what it saw.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from running_node import ask, is_alive, name_of, wait_for
from storm_apps import BROKEN_SECONDS, LEDGER, PULLED, SLEEPY, spec_of
from storm_disk import loop_devices
from storm_installation import GOOD
from storm_traffic import find_faults
from storm_world import descriptors, without_numbers

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

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
    world.registry.set_mood("well")
    wait_for(world.is_up, "the node")
    world.wait_for_version()
    world.wait_for_files()
    for (kind, name), body in world.objects().items():
        if kind == "Deployment" and body["spec"].get("paused"):
            assert world.roll(name, "resume"), f"the rollout of {name} can't be resumed"
    for invariant in SETTLED:
        invariant(world)


def acknowledged_changes_are_there(world: World) -> None:
    """Every acknowledged change is there; of the others, all or nothing."""
    wrong = world.desired.settle(world.objects())
    assert not wrong, "; ".join(wrong)


def apps_run_as_desired(world: World) -> None:
    """Each app answers with the version that was asked for last, or, when that can't work, the one before."""
    world.in_force = {}
    for name, spec in world.desired.apps().items():
        if spec.form == "job":
            world.node.wait_phase(name, "Succeeded", _PATIENCE_SECONDS)
            continue
        found = _wait_verdict(world, name, spec)
        world.in_force[name] = found
        if found.form == "good":
            _wait_app(world, name, found)


def _wait_verdict(world: World, name: str, spec: AppSpec) -> AppSpec:
    """Return what is in force of an app, once its newest release is decided, and decided rightly."""
    client = world.node.client
    known: list[Any] = []

    def is_decided() -> bool:
        known[:] = client.releases(namespace="default", name=name)
        return known[-1]["status"] != "progressing"

    try:
        wait_for(is_decided, f"a verdict on {name}", _PATIENCE_SECONDS)
    except AssertionError as error:
        raise AssertionError(f"{error}: {spec}; {known}; {world.node.status(name)}") from error
    newest, complete = known[-1], [each for each in known if each["status"] == "complete"]
    told = f"{name}: {spec}; {known}"
    specs = {each["release"]: _release_spec(world, name, each["release"]) for each in known}
    assert all(specs[each["release"]].form == "good" for each in complete), told
    if spec.form == "good" and newest["status"] == "failed":
        assert _may_fail(world, name, newest["message"]), told
    elif spec.form != "good":
        assert newest["status"] == "failed", told
    wanted = complete[-1] if complete else newest
    in_force = [each["release"] for each in known if each["is_in_force"]]
    assert in_force == [wanted["release"]], told
    found = specs[wanted["release"]]
    if found.form == "good" and not complete and _has_lied(world, newest["message"]):
        found = replace(found, form="refused")  # nothing asks for it again until it is changed
    return replace(found, replicas=spec.replicas)


def _release_spec(world: World, name: str, number: int) -> AppSpec:
    found = world.node.client.release(namespace="default", name=name, number=number)
    return spec_of(found["object"])


def _may_fail(world: World, name: str, message: str) -> bool:
    """Whether what was done to a good release excuses that it failed."""
    reason = message.partition(":")[0]
    if reason == "CrashLoopBackOff":
        return world.faults.get("kill worker", 0) > 2
    if reason == "ProgressDeadlineExceeded":  # the object still has the time of a broken release
        body = world.objects()[("Deployment", name)]
        return bool(body["spec"].get("progressDeadlineSeconds") == BROKEN_SECONDS)
    return _has_lied(world, message)


def _has_lied(world: World, message: str) -> bool:
    return world.registry.has_lied and message.startswith("FetchRefused")


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
    apps = {**world.desired.apps(), **world.in_force}
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
        acknowledged, in_doubt = list(world.ledger.acknowledged), list(world.ledger.in_doubt)
    finally:
        world.ledger.start()
    wrong = find_faults(book, acknowledged=acknowledged, in_doubt=in_doubt)
    lines = book.splitlines()
    told = f"{len(wrong)} wrong; {len(acknowledged)} acknowledged; of {len(lines)} lines: "
    told += f"{lines[:3]} ... {lines[-3:]}"
    assert not wrong, "; ".join([*wrong[:5], *wrong[-5:], told])


def no_request_failed_without_need(world: World) -> None:
    """What does not touch the worker that serves costs no request."""
    if not _COSTS_REQUESTS & world.faults.keys():
        assert world.load.failures == [], (world.faults, world.load.failures[:5])


def the_version_that_runs_is_whole(world: World) -> None:
    """No broken version stays, and what runs is what starts at the next boot."""
    told = world.node.client.upgrade()
    assert told["version"] in GOOD, told
    assert world.node.prefix.current == told["version"], (world.node.prefix.current, told)


def limpet_itself_has_not_failed(world: World) -> None:
    """No event tells of a defect in Limpet."""
    told = [
        f"{each['name']}: {each['message']}" for each in world.node.events(reason="InternalError")
    ]
    assert not told, told


def what_may_run_again_is_there(world: World) -> None:
    """The node has the module of every release that it keeps, however full its disk was."""
    for name in world.in_force:
        for release in world.node.client.releases(namespace="default", name=name):
            digest = release["digest"]
            assert digest is None or world.node.client.has_module(digest), f"{name}: {release}"


def no_download_is_left_over(world: World) -> None:
    """There is no part of a download that nothing waits for."""
    found = world.in_force.get(PULLED)
    if found is None or found == world.desired.apps().get(PULLED):
        wait_for(lambda: not _downloads(world), f"unfinished downloads to go: {_downloads(world)}")


def _downloads(world: World) -> list[str]:
    return [path.name for path in world.node.data.glob("downloads/*")]


SETTLED: list[Callable[[World], None]] = [
    acknowledged_changes_are_there,
    apps_run_as_desired,
    what_may_run_again_is_there,
    no_download_is_left_over,
    no_process_is_left_over,
    no_user_is_shared,
    records_are_there_once,
    no_request_failed_without_need,
    the_version_that_runs_is_whole,
    limpet_itself_has_not_failed,
]


# When everything was deleted and the node has ended


def end(world: World) -> None:
    """Delete everything, stop the node, and see that nothing is left of it."""
    world.quiet()
    world.registry.end()
    wait_for(world.is_up, "the node")
    world.node.delete_everything()
    wait_for(lambda: not world.node.busy_pids(), "the end of all processes of apps")
    descriptors_are_back_at_their_base(world)
    world.node.stop()
    for invariant in ENDED:
        invariant(world)
    world.disk.unmount()


def descriptors_are_back_at_their_base(world: World) -> None:
    """Launcher and agent hold open what they held before the first app, not more.

    But for one: SQLite closes a file that another connection of the process has locked only with that one,
    and opens no second such (os_unix.c, `setPendingFd`). So the first backup leaves one of the state.
    """
    more: dict[str, list[str]] = {}
    kept = collections.Counter([without_numbers(str(world.node.data / "state.db"))])

    def is_back() -> bool:
        nonlocal more
        for role, base in world.base_descriptors.items():
            now = collections.Counter(descriptors(world.node.pid(role)))
            more[role] = sorted((now - collections.Counter(base) - kept).elements())
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
    """Volumes, scratch folders and unfinished downloads of deleted apps are gone."""
    left = [
        str(path.relative_to(world.node.data))
        for folder in ("volumes/*", "apps/*", "downloads")
        for path in world.node.data.glob(f"{folder}/*")
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
