"""Commands: Jobs, Pods and Deployments that run to their end, their logs and what they are given."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from engines import on_both_engines
from running_node import wait_for
from workloads import claim, command_app, config_map, http_app, job, pod, secret

from limpet.errors import ConflictError

if TYPE_CHECKING:
    from running_node import RunningNode


def last_exit(status: dict[str, Any]) -> dict[str, Any]:
    return status["workers"][0]["last_exit"]


@on_both_engines
def test_a_job_succeeds(node: RunningNode) -> None:
    node.apply(job("good", "job_exit"))
    status = node.wait_phase("good", "Succeeded")
    assert (status["reason"], status["is_final"], status["restarts"]) == ("Completed", True, 0)
    assert last_exit(status)["exit_code"] == 0
    assert status["workers"][0]["state"] == "Completed"
    assert node.logs("good") == ["started", "ending"]
    assert node.logs("good", tail=1) == ["ending"]


@on_both_engines
def test_a_job_that_fails_is_not_tried_again_with_never(node: RunningNode) -> None:
    node.apply(job("failing", "job_exit", env={"GUEST_N": "3"}))
    status = node.wait_phase("failing", "Failed")
    assert (status["reason"], status["message"]) == ("Error", "exited with code 3")
    assert (last_exit(status)["exit_code"], status["restarts"]) == (3, 0)
    assert node.logs("failing").count("started") == 1
    assert node.events("failing", "Error")[-1]["type"] == "Warning"


def test_a_job_is_tried_again_up_to_its_limit(node: RunningNode) -> None:
    made = job("stubborn", "job_exit", restart="OnFailure", env={"GUEST_N": "1"})
    made["spec"]["backoffLimit"] = 2
    node.apply(made)
    status = node.wait_phase("stubborn", "Failed")
    assert status["restarts"] == 2
    assert node.logs("stubborn").count("started") == 3
    assert node.logs("stubborn", previous=True).count("started") == 1


@on_both_engines
def test_a_job_has_a_deadline(node: RunningNode) -> None:
    spec = {"activeDeadlineSeconds": 1, "backoffLimit": 0}
    node.apply(job("late", "loop", spec=spec))
    status = node.wait_phase("late", "Failed")
    assert status["reason"] == "DeadlineExceeded"
    assert not node.pids("late")


@pytest.mark.parametrize(
    ("guest", "reason", "word"),
    [("trap", "Trap", "unreachable"), ("recurse", "Trap", "stack"), ("grow", "Trap", "")],
)
def test_a_trap_is_called_one(node: RunningNode, guest: str, reason: str, word: str) -> None:
    node.apply(job("trapping", guest))
    status = node.wait_phase("trapping", "Failed")
    assert status["reason"] in (reason, "OOMKilled" if guest == "grow" else reason)
    assert word in status["message"]
    assert word in node.events("trapping", status["reason"])[-1]["message"]


def test_a_pod_obeys_its_restart_policy(node: RunningNode) -> None:
    node.apply(pod("once", "job_exit", restart="Never", env={"GUEST_N": "2"}))
    assert node.wait_phase("once", "Failed")["reason"] == "Error"
    node.apply(pod("until-good", "job_exit", restart="OnFailure"))
    assert node.wait_phase("until-good", "Succeeded")["restarts"] == 0
    node.apply(pod("for-ever", "job_exit", restart="Always"))
    wait_for(lambda: node.status("for-ever")["restarts"] >= 2, "two restarts")
    assert node.status("for-ever")["phase"] in ("Pending", "Running")


def test_a_command_that_ends_is_started_again_ever_later(node: RunningNode) -> None:
    node.apply(command_app("ending", "job_exit", env={"GUEST_N": "1"}))
    status = node.wait_reason("ending", "CrashLoopBackOff")
    assert "times in a row, it starts again in " in status["message"]
    assert status["phase"] == "Pending"
    assert "exited with code 1" in status["message"]
    worker = status["workers"][0]
    assert worker["state"] == "BackOff"
    assert 0 < worker["retry_seconds"] <= 10
    wait_for(lambda: node.logs("ending").count("started") >= 4, "three restarts")
    assert node.status("ending")["restarts"] >= 3
    lines = [line for line in node.logs("ending", timestamps=True) if line.endswith(" started")]
    starts = [_seconds(line) for line in lines]
    pauses = [b - a for a, b in itertools.pairwise(starts)]
    assert pauses[0] < 0.4 <= pauses[1] + 0.01
    assert pauses[1] < pauses[2]


def _seconds(line: str) -> float:
    clock = line.split("T")[1].split("Z", maxsplit=1)[0]
    hours, minutes, seconds = clock.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


@on_both_engines
def test_a_command_that_runs_on(node: RunningNode) -> None:
    node.apply(command_app("running", "job_lines", env={"GUEST_MS": "5"}))
    assert node.wait_ready("running")["phase"] == "Running"
    wait_for(lambda: "line 20" in node.logs("running"), "twenty lines")
    (worker,) = node.pids("running")
    begun = time.monotonic()
    node.delete("Deployment", "running")
    wait_for(lambda: node.is_gone("running"), "the app's end")
    assert time.monotonic() - begun < 5
    assert worker not in node.pids()


def test_logs_are_followed(node: RunningNode) -> None:
    node.apply(command_app("spoken", "job_lines", env={"GUEST_MS": "20"}))
    node.wait_ready("spoken")
    followed: list[str] = []

    def follow() -> None:
        query = {"follow": True, "tail": 1}
        for line in node.client.log_lines(namespace="default", name="spoken", query=query):
            followed.append(line.decode().strip())
            if len(followed) == 10:
                return

    follower = threading.Thread(target=follow)
    follower.start()
    follower.join(10)
    assert not follower.is_alive()
    numbers = [int(line.removeprefix("line ")) for line in followed]
    assert numbers == list(range(numbers[0], numbers[0] + 10))
    recent = node.logs("spoken", since=0.2)
    assert 0 < len(recent) <= 15
    assert node.logs("spoken", since=100)[0] == "line 1"
    assert node.logs("spoken", since=0) == []


def test_the_logs_of_the_run_before(node: RunningNode) -> None:
    node.apply(command_app("killed", "job_lines", env={"GUEST_MS": "10"}))
    node.wait_ready("killed")
    assert node.logs("killed", previous=True) == []
    wait_for(lambda: "line 20" in node.logs("killed"), "twenty lines")
    last = node.logs("killed")[-1]
    (pid,) = node.pids("killed")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: node.logs("killed").count("line 1") == 2, "the next run")
    previous = node.logs("killed", previous=True)
    assert previous[0] == "line 1"
    assert last in previous
    assert previous.count("line 1") == 1
    assert node.events("killed", "Signal")[-1]["message"].count("SIGKILL")


def test_environment_of_every_source(node: RunningNode) -> None:
    app = http_app(
        "given",
        "echo",
        env={
            "PLAIN": "1",
            "FROM_MAP": {"configMapKeyRef": {"name": "settings", "key": "mode"}},
            "FROM_SECRET": {"secretKeyRef": {"name": "keys", "key": "token"}},
            "MISSING": {"secretKeyRef": {"name": "keys", "key": "none", "optional": True}},
            "NAME": {"fieldRef": {"fieldPath": "metadata.name"}},
            "NAMESPACE": {"fieldRef": {"fieldPath": "metadata.namespace"}},
            "LABEL": {"fieldRef": {"fieldPath": "metadata.labels['app']"}},
            "NODE": {"fieldRef": {"fieldPath": "spec.nodeName"}},
        },
        envFrom=[{"prefix": "P_", "configMapRef": {"name": "settings"}}],
    )
    node.apply(app)
    status = node.wait_reason("given", "MissingConfig")
    assert "ConfigMap default/settings does not exist" in status["message"]
    assert not status["is_final"]
    node.apply(config_map("settings", mode="fast", other="x"), secret("keys", token="s3cret"))
    node.wait_ready("given")
    variables = node.request("given").variables()
    expected = {
        "PLAIN": "1",
        "FROM_MAP": "fast",
        "FROM_SECRET": "s3cret",
        "NAME": "given",
        "NAMESPACE": "default",
        "LABEL": "given",
        "NODE": "test",
        "P_mode": "fast",
        "P_other": "x",
    }
    assert {name: variables.get(name) for name in expected} == expected
    assert "MISSING" not in variables
    assert "s3cret" not in str(node.client.objects()) + str(node.status("given")) + node.output()
    node.apply(config_map("settings", mode="slow"))
    wait_for(lambda: node.request("given").variables()["FROM_MAP"] == "slow", "the new value")


def mounting(name: str, path: str, *, is_written: bool = False) -> dict[str, Any]:
    """Return an app that shows files; `is_written` takes the guest that fills /data/filled."""
    return http_app(
        name,
        "fill_volume" if is_written else "open_file",
        mounts={"/data": "data", "/config": "config", "/keys": "keys", "/scratch": "scratch"},
        volumes=[
            {"name": "data", "persistentVolumeClaim": {"claimName": path}},
            {"name": "config", "configMap": {"name": "settings"}},
            {"name": "keys", "secret": {"secretName": "keys"}},
            {"name": "scratch", "emptyDir": {}},
        ],
    )


@on_both_engines
def test_volumes_of_every_kind(node: RunningNode) -> None:
    node.apply(mounting("mounting", "store"))
    node.apply(config_map("settings", mode="fast"), secret("keys", token="s3cret"))
    status = node.wait_reason("mounting", "MissingVolume")
    assert "PersistentVolumeClaim default/store does not exist" in status["message"]
    node.apply(claim("store"))
    node.wait_ready("mounting")
    assert node.request("mounting", "/?path=/config/mode").body == b"fast"
    assert node.request("mounting", "/?path=/keys/token").body == b"s3cret"
    assert node.request("mounting", "/?path=/scratch/none").body == b"errno 44\n"
    for outside in ("/data/../../etc/passwd", "/etc/passwd", "/data/../keyring.db"):
        assert node.request("mounting", f"/?path={outside}").text.startswith("errno ")
        assert node.request("mounting", f"/?link=1&path={outside}").text.startswith("errno ")
    kinds = sorted(volume["kind"] for volume in node.status("mounting")["volumes"])
    assert kinds == ["ConfigMap", "EmptyDir", "PersistentVolumeClaim", "Secret"]
    node.apply(config_map("settings", mode="slow"))
    wait_for(
        lambda: node.request("mounting", "/?path=/config/mode").body == b"slow", "the new file"
    )


def test_a_claim_outlives_apps_and_nodes(fresh_node: RunningNode) -> None:
    node = fresh_node
    node.apply(claim("kept"), config_map("settings"), secret("keys"))
    node.apply(mounting("writer", "kept", is_written=True))
    node.wait_ready("writer")
    assert node.request("writer", "/?mb=1").body == b"1048576 errno 0\n"
    with pytest.raises(ConflictError, match="is used by app default/writer; delete that app first"):
        node.delete("PersistentVolumeClaim", "kept")
    node.restart()
    node.wait_ready("writer")
    node.delete("Deployment", "writer")
    wait_for(lambda: node.is_gone("writer"), "the app's end")
    node.apply(mounting("reader", "kept"))
    node.wait_ready("reader")
    assert node.request("reader", "/?path=/data/filled").body[:4] == b"ffff"
    node.delete("Deployment", "reader")
    wait_for(lambda: node.is_gone("reader"), "the app's end")
    node.delete("PersistentVolumeClaim", "kept")
    assert not (node.data / "volumes" / "default" / "kept").exists()
    node.apply(claim("kept"), mounting("reader", "kept"))
    node.wait_ready("reader")
    assert node.request("reader", "/?path=/data/filled").body == b"errno 44\n"


def test_a_job_that_ended_stays_so(fresh_node: RunningNode) -> None:
    node = fresh_node
    node.apply(job("done", "job_exit"), job("failed", "job_exit", env={"GUEST_N": "4"}))
    node.apply(http_app("other", "echo"))
    node.wait_phase("done", "Succeeded")
    node.wait_phase("failed", "Failed")
    node.restart()
    node.wait_ready("other")
    assert node.status("done")["phase"] == "Succeeded"
    status = node.status("failed")
    assert (status["phase"], status["message"]) == ("Failed", "exited with code 4")
    assert last_exit(status)["exit_code"] == 4
    assert node.logs("done").count("started") == 1
    assert node.logs("failed").count("started") == 1
    node.apply(job("failed", "job_exit", env={"GUEST_N": "0"}))
    node.wait_phase("failed", "Succeeded")


def test_a_job_under_way_runs_again_after_a_restart(fresh_node: RunningNode) -> None:
    node = fresh_node
    node.apply(job("slow", "job_exit", env={"GUEST_MS": "60000"}))
    wait_for(lambda: node.logs("slow") == ["started"], "the first run")
    node.restart()
    wait_for(lambda: node.logs("slow").count("started") == 2, "the second run")
    assert node.status("slow")["phase"] == "Running"
    node.delete("Job", "slow")
    wait_for(lambda: node.is_gone("slow"), "the app's end")


def test_an_app_and_its_volume_are_deleted_together(node: RunningNode) -> None:
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "together"}}
    owner = http_app("owner", "fill_volume", mounts={"/data": "data"}, volumes=[volume])
    node.apply(claim("together"), owner)
    node.wait_ready("owner")
    folder = node.data / "volumes" / "default"
    assert (folder / "together").exists()
    node.delete("Deployment", "owner")
    node.delete("PersistentVolumeClaim", "together")  # while the app may still drain
    assert not (folder / "together").exists()
    wait_for(lambda: node.is_gone("owner"), "the app's end")
    wait_for(lambda: not list(folder.glob(".retired-*")), "the data's end")
