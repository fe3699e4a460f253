"""The folder of manifests that a storm's node follows: files in it are written, broken and removed."""

from __future__ import annotations

import itertools
import shutil
from typing import TYPE_CHECKING

import yaml
from guests import build_guest
from running_node import wait_for
from storm_apps import FILED
from workloads import config_map

if TYPE_CHECKING:
    from pathlib import Path

    from storm_desired import AppSpec, Body, Key
    from storm_world import World

# File by what is in it: the app with settings of its own, or settings alone.
FILES = ("app", "more")
_MARKER = "seen"


def objects_of(file: str, spec: AppSpec, manifest: Body) -> dict[Key, Body]:
    """Return what a good file says."""
    settings = config_map(f"{file}-settings", version=str(spec.version))
    made: dict[Key, Body] = {("ConfigMap", f"{file}-settings"): settings}
    return {**made, ("Deployment", FILED): manifest} if file == "app" else made


class ManifestsFolder:
    """The folder. Each file is whole at any moment, though what it says may be nonsense."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._serial = itertools.count()

    def begin(self) -> None:
        """Be there, with a file that stays: an empty folder could be one that is not mounted."""
        self.path.mkdir()
        shutil.copyfile(build_guest("echo"), self.path / "echo.wasm")
        self.write("anchor", [config_map("anchor")])

    def write(self, file: str, objects: list[Body]) -> None:
        """Put a good file there."""
        self._place(file, yaml.safe_dump_all(objects))

    def break_file(self, file: str, objects: list[Body]) -> None:
        """Put a file there of which the last part is missing."""
        text = yaml.safe_dump_all([config_map("never"), *objects])
        self._place(file, text[: text.rindex("metadata")] + "metadata: {na")

    def remove(self, file: str) -> None:
        """Remove a file, if it is there."""
        (self.path / f"{file}.yaml").unlink(missing_ok=True)

    def _place(self, file: str, text: str) -> None:
        staged = self.path / f".{file}.new"
        staged.write_text(text)
        staged.replace(self.path / f"{file}.yaml")

    def wait_seen(self, world: World) -> None:
        """Wait until the node has acted upon everything that was done so far."""
        name = f"{_MARKER}-{next(self._serial)}"
        self.write(_MARKER, [config_map(name)])
        wait_for(lambda: ("ConfigMap", name) in world.objects(), "the folder to be seen", 30)
        self.remove(_MARKER)
        wait_for(lambda: ("ConfigMap", name) not in world.objects(), "the folder to be seen", 30)
