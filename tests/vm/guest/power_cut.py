"""What runs in the VM around a power cut: `live` is cut down at work, `after` looks at what is left."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

TREE = Path(__file__).parents[3]
sys.path[:0] = [str(TREE / "tests/storm"), str(TREE / "tests/process"), str(TREE / "src")]

from running_node import RunningNode, ask, wait_for  # noqa: E402
from storm_apps import CLAIMED, LEDGER, manifest_of  # noqa: E402
from storm_desired import AppSpec  # noqa: E402
from storm_traffic import Ledger, find_faults  # noqa: E402

DISK, FOLDER = "/dev/sda", Path("/srv/data")
APPS = {LEDGER: 8201, "a": 8202, "b": 8203, "c": 8204}
_saying = threading.Lock()
_writing = threading.Lock()


def say(text: str) -> None:
    with _saying:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def make_node() -> RunningNode:
    """Mount the data as a device does at boot, and return the node that lives there."""
    subprocess.run(["modprobe", "--all", "virtio_scsi", "sd_mod"], check=True)
    wait_for(lambda: Path(DISK).exists(), DISK)
    checked = subprocess.run(["e2fsck", "-p", DISK], stdout=subprocess.DEVNULL)
    assert checked.returncode in (0, 1), checked
    FOLDER.mkdir(exist_ok=True)
    subprocess.run(["mount", DISK, str(FOLDER)], check=True)
    node = RunningNode(Path("/run"), {"LIMPET_NODE_BACKOFF_SECONDS": "1"})
    node.data = FOLDER / "limpet"
    return node


class SaidLedger(Ledger):
    """Tells the host of each record that was acknowledged, before the next one is asked for."""

    def write(self) -> int:
        with _writing:
            status = super().write()
            if status == 201:
                say(f"acknowledged record {self.acknowledged[-1]}")
        return status


def live() -> int:
    """Write and change until the power goes."""
    node = make_node()
    node.start()
    node.apply(CLAIMED)
    say("acknowledged claim")
    version = 1
    for name, port in APPS.items():
        node.apply(manifest_of(AppSpec(name, version), port))
        say(f"acknowledged app {name} {version}")
    node.wait_ready(LEDGER)
    ledger = SaidLedger(APPS[LEDGER])
    ledger.start()
    while True:
        version += 1
        for name in ("a", "b", "c"):
            say(f"asked app {name} {version}")
            node.apply(manifest_of(AppSpec(name, version), APPS[name]))
            say(f"acknowledged app {name} {version}")
            time.sleep(0.5)  # a pace, not a wait


def after() -> int:
    """Start the node, and compare what is there with what was said."""
    told = json.loads((Path("/job") / "acknowledged.json").read_text())
    records = [each.split()[1] for each in told if each.startswith("record ")]
    versions = {each.split()[1]: int(each.split()[2]) for each in told if each.startswith("app ")}
    node = make_node()
    started = time.monotonic()
    node.start()
    up = time.monotonic() - started
    objects = {item["name"]: item["object"] for item in node.client.objects(kind="Deployment")}
    for name, version in versions.items():
        # The change after the last acknowledged one may be there, too.
        allowed = [manifest_of(AppSpec(name, v), APPS[name]) for v in (version, version + 1)]
        assert objects.get(name) in allowed, f"{name}: {objects.get(name)}, not version {version}"
    for name in versions:
        node.wait_ready(name)
        assert ask(APPS[name]).status == 200
    answering = time.monotonic() - started
    wrong = find_faults(
        ask(APPS[LEDGER]).text,
        acknowledged=records,
        in_doubt=[f"r{number}" for number in range(100_000)],
    )
    assert not wrong, wrong
    say(
        f"{len(records)} records and {len(versions)} apps survived the cut; up after {up:.1f} s, "
        f"all apps answered after {answering:.1f} s"
    )
    node.stop()
    subprocess.run(["umount", str(FOLDER)], check=True)
    return 0


sys.exit({"live": live, "after": after}[sys.argv[1]]())
