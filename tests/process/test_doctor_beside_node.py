"""`limpet doctor` beside a node that runs: both come to the same, and the node does not notice."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from running_node import PATIENCE_SECONDS, Load
from workloads import claim, http_app

if TYPE_CHECKING:
    from running_node import RunningNode


def test_the_doctor_and_the_node_agree(node: RunningNode) -> None:
    volumes = [{"name": "readings", "persistentVolumeClaim": {"claimName": "readings"}}]
    app = http_app("web", "echo", mounts={"/data": "readings"}, volumes=volumes)
    node.apply(claim("readings"), app)
    node.wait_ready("web")
    options = ["-o", "json", "--data", str(node.data), "--socket", str(node.socket_path)]
    with Load(node.port("web"), clients=1, pause_seconds=0.01) as load:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "limpet", "doctor", *options],
            env=node.environment() | {"PROCESS_TEST_MARK": ""},
            capture_output=True,
            timeout=3 * PATIENCE_SECONDS,
            check=False,
        )
    assert load.failures == []
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ok"] else 1)
    assert report["node"]["running"]
    assert report["node"]["facilities"] == report["facilities"]
    assert report["node"]["data_directory"] == report["data_directory"]
