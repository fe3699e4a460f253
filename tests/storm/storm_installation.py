"""An installation of Limpet for one storm: this tree under several numbers, and broken in several ways."""

from __future__ import annotations

import shutil
import sysconfig
import venv
from typing import TYPE_CHECKING

from installations import SITE, TREE

from limpet.store.database import SCHEMA_VERSION
from limpet.upgrade.layout import HANDOVER, Installed, Prefix

if TYPE_CHECKING:
    from pathlib import Path

FIRST = "0.1.0"
GOOD = (FIRST, "0.2.0")
_FUTURE = "from __future__ import annotations\n"
_JUDGE = '"""Return what is not as healthy as it was; empty when all is."""\n'
# What is broken ends without a word: a storm takes whatever a node prints of itself for a defect.
_END = "import os\nos._exit(1)\n"
# The agent ends as it starts, the zygote does, nothing is ever healthy.
BROKEN = {
    "0.9.1": ("node/agent.py", _FUTURE, f"{_FUTURE}{_END}"),
    "0.9.2": ("worker/zygote.py", _FUTURE, f"{_FUTURE}{_END}"),
    "0.9.3": ("node/upgrading.py", _JUDGE, f"{_JUDGE}        return 'never'\n"),
}


def make_installation(path: Path) -> Prefix:
    """Make all of it, without pip: what Limpet needs is what runs this."""
    prefix = Prefix(path)
    for version in (*GOOD, *BROKEN):
        folder = prefix.folder(version)
        venv.create(folder, symlinks=True)
        site = folder / SITE
        needed = {sysconfig.get_path(each) for each in ("purelib", "platlib")}
        (site / "dependencies.pth").write_text("\n".join(sorted(needed)))
        shutil.copytree(TREE / "src/limpet", site / "limpet")
        _change(site / "limpet/__init__.py", FIRST, version)
        if version in BROKEN:
            name, old, new = BROKEN[version]
            _change(site / "limpet" / name, old, new)
        prefix.finish(Installed(version=version, schema=SCHEMA_VERSION, handover=HANDOVER))
    prefix.switch(FIRST)
    return prefix


def _change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} has no {old!r} any more"
    path.write_text(text.replace(old, new, 1))
