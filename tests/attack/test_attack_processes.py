"""Every process that handles what strangers wrote is behind its walls before it reads the first of it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest
from attack_node import AttackNode, Group, proc_status, process_of
from escaped_node import module
from running_node import wait_for
from workloads import http_app

from limpet.linux import cgroup

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NO_RIGHTS = "0000000000000000"
FIRST_UID = 1_900_000_000


def is_walled(pid: int) -> bool:
    status = proc_status(pid)
    return (
        all(int(uid) >= FIRST_UID for uid in status["Uid"].split())
        and all(int(gid) >= FIRST_UID for gid in status["Gid"].split())
        and status["Groups"] == ""
        and {status[f"Cap{which}"] for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {NO_RIGHTS}
        and (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    )


def namespaces(pid: int) -> set[str]:
    """The kinds of namespaces that a process does not share with this one."""
    kinds = ("mnt", "ipc", "uts", "net", "pid")
    own = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}
    return {kind for kind in kinds if os.readlink(f"/proc/{pid}/ns/{kind}") != own[kind]}


def test_the_nodes_own_processes_are_not(node: AttackNode) -> None:
    """The control: the same look at the agent tells the difference."""
    assert not is_walled(node.pid("agent"))
    assert proc_status(node.pid("agent"))["Seccomp"] == "0"


def test_workers_are_walled(node: AttackNode) -> None:
    node.place_escaped("evil")
    pid = node.worker_pid("evil")
    assert is_walled(pid)
    assert namespaces(pid) == {"mnt", "ipc", "uts", "net", "pid"}


def test_no_two_workers_have_the_same_user(node: AttackNode) -> None:
    node.place_escaped("one", replicas=3)
    node.place_escaped("two")
    pids = [each["pid"] for name in ("one", "two") for each in node.status(name)["workers"]]
    assert len({proc_status(pid)["Uid"] for pid in pids}) == len(pids) == 4


def test_a_module_is_compiled_behind_walls(node: AttackNode) -> None:
    """What a module finds in the compiler, walls are up already: it is asked while it has it."""
    node.place(module("compiler", "hold", seconds=2, threads=1), http_app("slow", "escaped"))
    pid = process_of(node, "limpet-compile")
    wait_for(lambda: is_walled(pid), "the walls")
    assert namespaces(pid) == {"mnt", "ipc", "uts", "net", "pid"}


def test_a_module_is_fetched_behind_walls(node: AttackNode) -> None:
    """It has the device's network and may read public files; nothing else."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        item = http_app("far", f"https://127.0.0.1:{silent.getsockname()[1]}/x.wasm")
        node.apply(item)
        connection, _ = silent.accept()
        pid = process_of(node, "limpet-fetch")
        assert is_walled(pid)
        assert namespaces(pid) == {"mnt", "ipc", "uts", "pid"}
        connection.close()


def test_manifests_of_a_folder_are_parsed_behind_walls(
    make_node: Callable[..., AttackNode], tmp_path: Path
) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    lines = "".join(f"  key{number}: {'x' * 20}\n" for number in range(4000))
    for name in range(100):  # the parser takes a while over them
        text = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: large-{name}}}\ndata:\n{lines}"
        (folder / f"{name}.yaml").write_text(text)
    node = make_node(LIMPET_NODE_MANIFESTS=str(folder))
    node.start()
    pid = process_of(node, "limpet-manifest")  # the kernel keeps 15 characters
    wait_for(lambda: is_walled(pid), "the walls")
    assert namespaces(pid) == {"mnt", "ipc", "uts", "net", "pid"}


def test_the_router_is_walled(make_node: Callable[..., AttackNode]) -> None:
    node = make_node(LIMPET_INGRESS_LISTEN="127.0.0.1:0")
    node.start()
    node.apply(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": {"name": "way"},
            "spec": {"defaultBackend": {"service": {"name": "absent", "port": {"number": 80}}}},
        }
    )
    pid = process_of(node, "limpet-ingress")
    wait_for(lambda: is_walled(pid), "the walls")
    assert namespaces(pid) == {"mnt", "ipc", "uts", "pid"}
    node.stop()


def test_a_spare_waits_behind_walls(make_node: Callable[..., AttackNode]) -> None:
    """All but the last, which depends on what the app is given; then its worker has that too."""
    node = make_node()
    node.start()
    node.place(module(), http_app("idle", "escaped", annotations={"idle-timeout": "1h"}))
    pid = process_of(node, "limpet-spare")
    wait_for(lambda: proc_status(pid)["NoNewPrivs"] == "1", "the first walls")
    assert int(proc_status(pid)["Uid"].split()[0]) >= FIRST_UID
    assert proc_status(pid)["CapEff"] == NO_RIGHTS
    assert node.run("idle", "identity")["pid"] == 1
    assert is_walled(node.worker_pid("idle"))
    node.stop()


def test_every_worker_is_under_its_limits(node: AttackNode) -> None:
    host = cgroup.inspect_host()
    if host.version is None:
        pytest.skip(f"no control group controllers here: {host.missing}")
    resources = {"limits": {"cpu": "250m", "memory": "32Mi"}}
    node.place_escaped("evil", resources=resources, annotations={"pids": "33"})
    limits = Group(node.worker_pid("evil")).limits()
    assert limits["cpu"].split()[0] == "25000"
    assert limits["memory"] == str(32 << 20)
    assert limits["pids"] == "33"


def test_a_spare_that_was_poisoned_would_not_run_it(make_node: Callable[..., AttackNode]) -> None:
    """What one worker writes into a file that came with the fork, the next spare must not execute."""
    node = make_node()
    node.start()
    node.place(module(), http_app("evil", "escaped"))
    node.wait_ready("evil")
    node.run("evil", "spoil_inherited")
    node.place(module(), http_app("victim", "escaped", annotations={"idle-timeout": "1h"}))
    pid = process_of(node, "limpet-spare")
    assert node.run("victim", "identity")["pid"] == 1
    assert node.worker_pid("victim") == pid, "the spare lived until it was needed"
    assert "Traceback" not in node.output()
    node.stop()


def test_threads_of_a_worker_are_walled_as_well(node: AttackNode) -> None:
    node.place_escaped("evil", annotations={"deadline": "30s"})
    holding = threading.Thread(
        target=node.run, args=("evil", "hold"), kwargs={"seconds": 1, "threads": 3}
    )
    holding.start()
    pid = node.worker_pid("evil")
    tasks = wait_for(lambda: len(found := os.listdir(f"/proc/{pid}/task")) > 3 and found, "threads")
    for task in tasks:
        with open(f"/proc/{pid}/task/{task}/status", encoding="ascii") as file:
            assert "Seccomp:\t2\n" in file.read()
    holding.join()
