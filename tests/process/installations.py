"""Limpet as it is installed: wheels of this tree and of what it needs, and versions of it that are broken.

A version is made by the command itself; the broken ones are copies of it (hard links, so they cost
little), with a line or two of other code.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from running_node import RunningNode

from limpet.upgrade.layout import Installed, Prefix

if TYPE_CHECKING:
    from collections.abc import Mapping

TREE = Path(__file__).parents[2]
SITE = Path("lib") / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
_NAME = re.compile(r"[A-Za-z0-9._-]+")


class InstalledNode(RunningNode):
    """A node that runs from an installation, as a device's service starts it."""

    def __init__(self, directory: Path, prefix: Prefix, environment: Mapping[str, str]) -> None:
        super().__init__(directory, environment)
        self.prefix = prefix

    def command(self) -> list[str]:
        python = self.prefix.path / "current/bin/python"
        return [str(python), *super().command()[1:]]

    def environment(self) -> dict[str, str]:
        return {k: v for k, v in super().environment().items() if k != "PYTHONPATH"}

    def upgrade(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return run_limpet(
            self.prefix.path / "current/bin/python",
            "upgrade",
            *arguments,
            "--socket",
            self.socket_path,
        )


class UnheardNode(InstalledNode):
    """One whose output goes to whoever has `listener`, until that is closed."""

    listener = -1

    def start(self, *, is_awaited: bool = True) -> None:
        self.listener, writer = os.pipe()
        self.process = subprocess.Popen(
            self.command(),
            env=self.environment(),
            stdout=writer,
            stderr=writer,
            process_group=0,
        )
        os.close(writer)
        if is_awaited:
            self.wait_up()


class PassphraseNode(InstalledNode):
    """One that `limpet up` starts with a passphrase from a pipe."""

    def start(self, *, is_awaited: bool = True) -> None:
        reader, writer = os.pipe()
        os.write(writer, b"correct horse battery staple\n")
        os.close(writer)
        python, options = self.prefix.path / "current/bin/python", super().command()[4:]
        with (self.directory / "node.log").open("ab") as log:
            self.process = subprocess.Popen(
                [python, "-P", "-m", "limpet", "up", *options, "--passphrase-fd", str(reader)],
                env=self.environment(),
                stdout=log,
                stderr=log,
                process_group=0,
                pass_fds=[reader],
            )
        os.close(reader)
        if is_awaited:
            self.wait_up()


def run_limpet(python: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [python, "-P", "-m", "limpet", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def build_wheel(folder: Path) -> Path:
    """Build this tree's wheel, as for a release."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    command = [*pip, "wheel", "--no-deps", "--wheel-dir", folder, TREE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("limpet-*.whl"))


def pack_dependencies(folder: Path) -> None:
    """Make wheels again of what is installed here and Limpet needs: no index is asked."""
    project = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
    waiting, seen = list(project["dependencies"]), set()
    while waiting:
        need = waiting.pop()
        match = _NAME.match(need)
        name = match[0] if match is not None else ""
        if name in seen or "extra ==" in need:
            continue
        seen.add(name)
        try:
            waiting += distribution(name).requires or ()
        except PackageNotFoundError:
            continue  # for another platform or Python
        _pack(name, folder)


def _pack(name: str, folder: Path) -> None:
    found = distribution(name)
    wheel = (found.read_text("WHEEL") or "").splitlines()
    tags = [line.removeprefix("Tag: ") for line in wheel if line.startswith("Tag: ")]
    stem = f"{re.sub('[-_.]+', '_', found.metadata['Name'])}-{found.version}"
    with zipfile.ZipFile(folder / f"{stem}-{tags[0]}.whl", "w") as archive:
        for file in found.files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                archive.write(file.locate(), str(file))


def renumber(
    wheel: Path, version: str, folder: Path, changes: Mapping[str, tuple[str, str]]
) -> Path:
    """Make a wheel of the same with another version, and other texts as in `make_variant`."""
    target = folder / wheel.name.replace("-0.1.0-", f"-{version}-")
    records = []
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            data, name = old.read(entry), entry.filename.replace("-0.1.0.", f"-{version}.")
            if name == "limpet/__init__.py" or name.endswith("/METADATA"):
                assert b"0.1.0" in data
                data = data.replace(b"0.1.0", version.encode(), 1)
            if name.endswith("/RECORD"):
                continue
            if name.removeprefix("limpet/") in changes:
                old_text, new_text = changes[name.removeprefix("limpet/")]
                assert old_text.encode() in data
                data = data.replace(old_text.encode(), new_text.encode(), 1)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            records.append(f"{name},sha256={digest},{len(data)}")
            new.writestr(name, data)
        name = f"limpet-{version}.dist-info/RECORD"
        new.writestr(name, "\n".join([*records, f"{name},,", ""]))
    return target


def copy_installation(source: Prefix, target: Path) -> Prefix:
    """Copy an installation with hard links."""
    subprocess.run(["cp", "-al", source.path, target], check=True, timeout=60)
    return Prefix(target)


def make_variant(prefix: Prefix, version: str, changes: Mapping[str, tuple[str, str]]) -> None:
    """Add a version in which the files (`node/agent.py`) have another text in the place of one."""
    origin = prefix.current
    assert origin is not None
    folder = prefix.folder(version)
    subprocess.run(["cp", "-al", prefix.folder(origin), folder], check=True, timeout=60)
    for name, (old, new) in {"__init__.py": (origin, version), **changes}.items():
        path = folder / SITE / "limpet" / name
        text = path.read_text()
        assert old in text, f"{name} has no {old!r} any more"
        path.unlink()
        path.write_text(text.replace(old, new, 1))
    script = folder / "bin/limpet"
    text = script.read_text()
    script.unlink()
    script.write_text(f"#!{prefix.python(version)}\n{text.partition(chr(10))[2]}")
    script.chmod(0o755)
    found = prefix.require(origin)
    (folder / "limpet-version.json").unlink()
    prefix.finish(Installed(version=version, schema=found.schema, handover=found.handover))
