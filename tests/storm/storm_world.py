"""One storm's world: a node on a small disk, its clients, and what it has been told."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from guests import build_guest
from installations import InstalledNode
from running_node import name_of, wait_for
from shifted_clock import Clock
from storm_apps import (
    ALL,
    CLAIM,
    CLAIMED,
    FILED,
    LEDGER,
    SERVED,
    SLEEPY,
    guest_of,
    manifest_of,
    salted,
    spec_of,
)
from storm_bundles import apply_bundle, damage, make_bundle
from storm_desired import AppSpec, Desired
from storm_disk import SmallDisk
from storm_installation import BROKEN, GOOD, make_installation
from storm_manifests import ManifestsFolder, objects_of
from storm_registry import Registry
from storm_traffic import Ledger, Load
from workloads import config_map

from limpet.api.client import Client
from limpet.errors import LimpetError
from limpet.node.data_directory import group_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from storm_desired import Body, Key

CALL_SECONDS = 2.0
_SCARCE_BYTES = (
    32 << 20
)  # more than the node needs to take anything, less than it needs to set more aside
_UIDS = 4096
_FIRST_UID = 2_000_000_000
# Answers that say for certain that nothing was changed. Silence does not.
_REFUSALS = {
    *("NodeNotRunning", "StoreNotWritable", "DiskPressure", "NotFound", "Conflict", "Invalid"),
    "UpgradeOnTrial",
}
# Processes that are named for what they do, beside those that every node has and those of apps.
OTHERS = ("compile", "spare", "fetch")
_STATE = {"Deployment", "Job", "ConfigMap", "PersistentVolumeClaim"}


class StormNode(InstalledNode):
    """A node whose data lie on the storm's disk; `hasty` is a client that doesn't wait for a frozen one."""

    def __init__(self, directory: Path, disk: SmallDisk, environment: dict[str, str]) -> None:
        super().__init__(directory, make_installation(directory / "opt"), environment)
        self.data = disk.folder / "data"
        self.patient = self.client
        self.hasty = Client(self.socket_path, timeout_seconds=CALL_SECONDS)


class World:
    """What operations act upon and invariants look at."""

    def __init__(
        self,
        directory: Path,
        *,
        with_clock: bool = False,
        is_sparse: bool = False,
        disk: SmallDisk | None = None,
    ) -> None:
        self.directory = directory
        self._is_sparse = is_sparse
        self.disk = disk or SmallDisk(directory)
        self.desired = Desired()
        self.faults: dict[str, int] = {}
        self.refused = 0
        self.frozen: list[tuple[int, int]] = []  # process and the step after which it goes on
        self.step = 0
        self.is_full = False
        self.ports = _free_ports((*ALL, "registry"))
        self.in_force: dict[str, AppSpec] = {}  # what runs of each app, as it was last seen
        self.registry = Registry(self.ports["registry"], build_guest("echo").read_bytes)
        self.folder = ManifestsFolder(directory / "manifests")
        self.filed: dict[str, dict[Key, Body | None] | None] = {}  # by file; None: it is broken
        # Nodes of other storms run beside this one.
        first = _FIRST_UID + os.getpid() % 4096 * _UIDS % (1 << 26)
        self.uids = range(first, first + _UIDS)
        self.clock = Clock(directory) if with_clock else None
        environment = {
            "LIMPET_UPGRADE_TRIAL_SECONDS": "6",
            "LIMPET_UPGRADE_STABLE_SECONDS": "0.3",
            "LIMPET_NODE_BACKOFF_SECONDS": "0.3",
            "LIMPET_NODE_RESYNC_SECONDS": "1",
            "LIMPET_NODE_MANIFESTS": str(self.folder.path),
            "LIMPET_NODE_MANIFESTS_RESCAN_SECONDS": "2",
            # What nothing needs goes soon, so that it is seen when something needed goes.
            "LIMPET_DISK_GRACE_MINUTES": "0.05",
            "LIMPET_DISK_UNUSED_HOURS": "0.002",
            "LIMPET_SANDBOX_FIRST_UID": str(first),
            "LIMPET_SANDBOX_UIDS": str(_UIDS),
        }
        if self.clock is not None:
            environment |= self.clock.environment
        self.node = StormNode(directory, self.disk, environment)
        self.load = Load(self.ports[SERVED])
        self.ledger = Ledger(self.ports[LEDGER])
        self.base_descriptors: dict[str, list[str]] = {}

    # Life

    def begin(self) -> None:
        """Start the node and what runs in every storm."""
        self.disk.make()
        self.disk.mount()
        self.folder.begin()
        self.registry.begin()
        self.node.start()
        self.base_descriptors = {
            role: descriptors(self.node.pid(role)) for role in ("launcher", "agent")
        }
        self.desired.acknowledge({("ConfigMap", "anchor"): config_map("anchor")})
        if self._is_sparse:  # its space can't be set aside, and so writing to it may fail later
            self.note_fault("sparse volume")
            self.disk.fill(left_bytes=_SCARCE_BYTES)
        made: dict[Key, Body | None] = {("PersistentVolumeClaim", CLAIM): CLAIMED}
        assert self.change(made, lambda: self.node.client.apply([{"object": CLAIMED}]))
        for name in (SERVED, LEDGER, SLEEPY):
            assert self.apply(AppSpec(name, 1))
        for name in (SERVED, LEDGER):
            self.node.wait_ready(name)
        if self._is_sparse:
            assert self.node.events(reason="VolumeNotSetAside"), "the volume is not sparse"
            self.disk.free()
        self.load.start()
        self.ledger.start()

    def quiet(self) -> None:
        """Stop every client."""
        self.load.stop()
        self.ledger.stop()

    def abandon(self) -> None:
        """Remove what a storm that failed has left."""
        self.quiet()
        self.registry.end()
        self.thaw(everything=True)
        self.node.kill()
        with contextlib.suppress(AssertionError):
            wait_for(self._remove_control_groups, "control groups to be removed", 5)
        with contextlib.suppress(AssertionError):
            self.disk.unmount()

    def _remove_control_groups(self) -> bool:
        for folder in self.control_groups():
            for inner, _, _ in os.walk(folder, topdown=False):
                for pid in Path(inner, "cgroup.procs").read_text().split():
                    self.signal(int(pid), signal.SIGKILL)
                with contextlib.suppress(OSError):  # it takes a moment until they are gone
                    Path(inner).rmdir()
        return not self.control_groups()

    def control_groups(self) -> list[str]:
        """Return the node's own control groups, one in each hierarchy."""
        name = group_name(self.node.data)
        return [each for each, _, _ in os.walk("/sys/fs/cgroup") if Path(each).name == name]

    # Telling the node

    def upgrade(self, version: str) -> None:
        """Have a version tried, `good` is one of those; what comes of it is seen later."""
        if version == "good":
            version = next(each for each in GOOD if each != self.node.prefix.current)
        self._wait_for_api()
        with contextlib.suppress(
            LimpetError
        ):  # it runs, or one is on trial already, or it is frozen
            self.node.hasty.try_version(version)
            self.note_fault(f"upgrade {'broken' if version in BROKEN else 'good'}")

    def wait_for_version(self) -> None:
        """Wait until no version is on trial."""
        told: dict[str, Any] = {}

        def is_decided() -> bool:
            with contextlib.suppress(LimpetError):
                told.update(self.node.client.upgrade())
                return not told["is_undecided"]
            return False

        wait_for(is_decided, f"the end of a trial: {told}", 60)

    def change(self, changes: dict[Key, Body | None], call: Callable[[], object]) -> bool:
        """Make a change and remember what is known of it then; whether it was acknowledged."""
        self._wait_for_api()
        self.node.client = self.node.hasty
        try:
            call()
        except LimpetError as error:
            if "a defect in Limpet" in str(error):
                raise AssertionError(str(error)) from error
            if error.reason not in _REFUSALS:
                self.desired.doubt(changes)
                return False
            self.refused += 1
            raise RefusedError(str(error)) from error
        finally:
            self.node.client = self.node.patient
        self.desired.acknowledge(changes)
        return True

    def apply(self, spec: AppSpec) -> bool:
        """Apply an app; whether it was acknowledged."""
        manifest = self._manifest(spec)

        def call() -> None:
            if spec.image:
                self.node.client.apply([{"object": manifest}])
            else:
                self.node.place(_module(spec), manifest)

        return self._tell(spec, spec.name, {(manifest["kind"], spec.name): manifest}, call)

    def _manifest(self, spec: AppSpec) -> Body:
        return manifest_of(spec, self.ports.get(spec.name, 0))

    def apply_bundle(self, spec: AppSpec, how: str, where: float) -> None:
        """Have an app come in a bundle, which may be damaged: then nothing may come of it."""
        manifest = self._manifest(spec)
        path = make_bundle(self.directory, _module(spec), manifest)
        damage(path, how, where)
        self._wait_for_api()
        problem = apply_bundle(path, self.node.socket_path)
        if how != "whole":
            assert problem, f"a bundle that was {how} was applied"
            return
        changes: dict[Key, Body | None] = {(manifest["kind"], spec.name): manifest}
        if problem:
            self.desired.doubt(changes)
        else:
            self.desired.acknowledge(changes)
        self.desired.note(spec, spec.name, is_certain=not problem)

    def roll(self, name: str, action: str, which: int = 0) -> bool:
        """Undo to some release, pause or resume an app's rollout; whether that was acknowledged."""
        self._wait_for_api()
        client = self.node.hasty
        to_release = None
        try:
            stored = self.objects(client).get(("Deployment", name))
            if stored is None:
                return False
            changed = {**stored, "spec": {**stored["spec"]}}
            if action == "undo":
                releases = client.releases(namespace="default", name=name)
                to_release = releases[which % len(releases)]["release"]
                earlier = client.release(namespace="default", name=name, number=to_release)
                changed["spec"]["template"] = earlier["object"]["spec"]["template"]
            else:
                changed["spec"]["paused"] = action == "pause"
        except LimpetError:
            return False  # it is frozen, or gone
        spec = spec_of(changed)
        return self._tell(
            spec,
            name,
            {("Deployment", name): changed},
            lambda: client.change_rollout(
                namespace="default", name=name, action=action, to_release=to_release
            ),
        )

    def write_file(self, file: str, what: str, version: int) -> None:
        """Write, break or remove a file of manifests: nobody acknowledges that."""
        spec = AppSpec(FILED, version)
        wanted = objects_of(file, spec, self._manifest(spec))
        if what == "break":
            self.folder.break_file(file, list(wanted.values()))
            self.filed[file] = None
            return
        changes: dict[Key, Body | None] = dict(wanted)
        if what == "write":
            self.folder.write(file, list(wanted.values()))
        else:
            self.folder.remove(file)
            changes = dict.fromkeys(wanted)
        self.filed[file] = changes
        self.desired.doubt(changes)
        if file == "app":
            self.desired.note(spec if what == "write" else None, FILED, is_certain=False)

    def wait_for_files(self) -> None:
        """Wait until the node has seen all files; then those that are good are what it has."""
        if not self.filed:
            return
        self.folder.wait_seen(self)
        for file, changes in self.filed.items():
            if changes is None:
                continue
            self.desired.acknowledge(changes)
            if file == "app":
                self.desired.note(self.desired.specs[FILED][-1], FILED, is_certain=True)
        self.filed.clear()

    def delete(self, name: str) -> bool:
        """Delete an app; whether it was acknowledged."""
        kind = "Job" if name.startswith("job") else "Deployment"
        return self._tell(None, name, {(kind, name): None}, lambda: self.node.delete(kind, name))

    def _tell(
        self,
        spec: AppSpec | None,
        name: str,
        changes: dict[Key, Body | None],
        call: Callable[[], None],
    ) -> bool:
        try:
            is_certain = self.change(changes, call)
        except RefusedError:
            return False
        self.desired.note(spec, name, is_certain=is_certain)
        return is_certain

    def _wait_for_api(self) -> None:
        if not self.frozen:
            wait_for(self.is_up, "the API")

    def is_up(self) -> bool:
        with contextlib.suppress(LimpetError):
            return bool(self.node.client.node())
        return False

    def objects(self, client: Client | None = None) -> dict[Key, Body]:
        """Return every object that the node shows."""
        return {
            (item["kind"], item["name"]): item["object"]
            for item in (client or self.node.client).objects()
            if item["kind"] in _STATE
        }

    def spec(self, name: str) -> AppSpec | None:
        """Return what an app is likely to be now."""
        return self.desired.specs.get(name, [None])[-1]

    def last_words(self) -> str:
        """Return what the node tells about itself, for whoever looks into a failure."""
        events: list[str] = []
        with contextlib.suppress(LimpetError):
            events = [
                f"{each['time']} {each['name']} {each['reason']} x{each['count']}: {each['message']}"
                for each in self.node.hasty.events(limit=60)
            ]
        told = "\n".join(events) or "(its API does not answer)"
        if "InternalError" in told:
            told += "".join(
                f"\nlast lines of {name}:\n{self._last_lines(name)}" for name in self.ports
            )
        return f"the node said:\n{self.node.output()[-3000:]}\nits events:\n{told}"

    def _last_lines(self, name: str) -> str:
        with contextlib.suppress(LimpetError):
            return "\n".join(self.node.logs(name, tail=40))
        return "(none)"

    # Doing it harm

    def note_fault(self, kind: str) -> None:
        """Remember that something was done that may cost requests."""
        self.faults[kind] = self.faults.get(kind, 0) + 1

    def find(self, target: str) -> list[int]:
        """Return the processes that a step means; a worker is named by its app."""
        if target in ("launcher", "agent", "zygote"):
            return self.node.pids(target)
        wanted = f"limpet-{target}"[:15] if target in OTHERS else f"app:{target}"[:15]
        return [pid for pid in self.node.pids() if name_of(pid) == wanted]

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a process that may have ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def freeze(self, pid: int, *, steps: int) -> None:
        """Stop a process for some steps."""
        self.signal(pid, signal.SIGSTOP)
        self.frozen.append((pid, self.step + steps))

    def thaw(self, *, everything: bool = False) -> None:
        """Let processes go on whose time is over."""
        due = [pid for pid, until in self.frozen if everything or until <= self.step]
        self.frozen = [each for each in self.frozen if each[0] not in due]
        for pid in due:
            self.signal(pid, signal.SIGCONT)

    def restart(self) -> None:
        """Start the node again after everything was killed."""
        self.frozen = []
        self.node.kill()
        self.node.start(is_awaited=False)
        wait_for(self.is_up, "the node after a cut")


class RefusedError(Exception):
    """The node said no, and that nothing was changed."""


def _module(spec: AppSpec) -> bytes:
    return salted(build_guest(guest_of(spec)).read_bytes(), spec.salt)


def descriptors(pid: int) -> list[str]:
    """Return what a process has open, without numbers: `socket`, `pidfd`, paths."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(without_numbers(str(entry.readlink())))
    return sorted(found)


def without_numbers(name: str) -> str:
    """Return the name of something open as it is alike for all of its kind."""
    return re.sub(r"[:\[]*\d+\]?", "", name)


def _free_ports(names: tuple[str, ...]) -> dict[str, int]:
    """Choose ports that are free now: a node that comes back has to have the same ones."""
    opened = []
    for _ in names:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        opened.append(listening)
    ports = {name: each.getsockname()[1] for name, each in zip(names, opened, strict=True)}
    for each in opened:
        each.close()
    return ports


@contextlib.contextmanager
def storm_folder() -> Any:
    """Return a folder for one storm, with a short name: it holds a Unix socket."""
    with tempfile.TemporaryDirectory(prefix=f"storm-{time.time_ns() % 10**6}-") as name:
        yield Path(name)
