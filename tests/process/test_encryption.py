"""What the node keeps is unreadable without its key, and nobody but the agent has the key."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from running_node import RunningNode, ask, is_alive, wait_for
from test_starting import run_node
from workloads import claim, command_app, config_map, http_app, secret

from limpet.cli.passphrase import new_stretching, stretch
from limpet.errors import LimpetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

needs_loop_devices = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/loop-control"),
    reason="needs root and loop devices",
)
PASSPHRASE = b"correct horse battery staple"
MARKS = {
    "secret": "planted-in-a-secret-77",
    "config": "planted-in-a-configmap-77",
    "variable": "planted-in-a-variable-77",
    "name": "planted-in-a-name-77",
}


def files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path


def holding(folder: Path, *texts: str) -> list[str]:
    """Return where any of these texts can be read in the files below a folder."""
    wanted = [form for text in texts for form in (text.encode(), base64.b64encode(text.encode()))]
    return [
        str(path) for path in files(folder) if any(form in path.read_bytes() for form in wanted)
    ]


def plant(node: RunningNode) -> None:
    node.apply(
        secret("kept", word=MARKS["secret"]),
        config_map("settings", word=MARKS["config"]),
        config_map(MARKS["name"], a="1"),
        http_app(
            "served",
            "echo",
            env={
                "PLAIN": MARKS["variable"],
                "WORD": {"secretKeyRef": {"name": "kept", "key": "word"}},
            },
        ),
        command_app("ticking", "job_lines", env={"GUEST_MS": "10"}),
    )
    node.wait_ready("served")
    wait_for(lambda: "line 20" in node.logs("ticking"), "twenty lines")


def test_nothing_can_be_read_from_the_disk(fresh_node: RunningNode) -> None:
    node = fresh_node
    plant(node)
    wait_for(lambda: node.events("served", "Started"), "an event")
    words = (*MARKS.values(), "line 20", "worker served-0 started")
    assert holding(node.data, *words) == []
    node.stop()
    assert holding(node.data, *words) == []
    assert not (node.data / "artifact.key").exists()
    node.start()
    node.wait_ready("served")
    assert node.request("served").variables()["WORD"] == MARKS["secret"]
    assert "line 20" in node.logs("ticking")
    assert node.events("served", "Started")
    assert MARKS["name"] in [item["name"] for item in node.client.objects(kind="ConfigMap")]


def test_a_secrets_value_is_told_to_nobody_but_its_app(fresh_node: RunningNode) -> None:
    node = fresh_node
    plant(node)
    with contextlib.suppress(LimpetError):
        node.apply({**secret("kept", word=MARKS["secret"]), "extra": MARKS["config"]})
    with contextlib.suppress(LimpetError):
        node.apply({**secret("kept"), "stringData": {"word": [MARKS["secret"]]}})
    with contextlib.suppress(LimpetError):
        node.apply({**secret("kept"), "data": {"word": MARKS["secret"]}})
    broken = http_app(
        "broken", "echo", env={"W": {"secretKeyRef": {"name": "kept", "key": "absent"}}}
    )
    node.apply(broken)
    wait_for(lambda: node.events("broken"), "an event")
    client = node.client
    answers: list[Any] = [
        client.objects(),
        client.apps(),
        client.events(limit=1000),
        client.node(),
        client.keys(),
        node.logs("served"),
        node.output(),
    ]
    assert MARKS["secret"] not in repr(answers)
    assert base64.b64encode(MARKS["secret"].encode()).decode() not in repr(answers)
    for verb in (
        ["get", "secret", "-o", "json"],
        ["get", "all", "-o", "yaml"],
        ["describe", "served"],
        ["describe", "secret", "kept"],
        ["get", "events", "-o", "json"],
    ):
        shown = limpet(node, *verb)
        assert shown.returncode == 0, shown.stderr
        assert MARKS["secret"].encode() not in shown.stdout + shown.stderr
    for pid in node.pids():
        for name in ("cmdline", "environ"):
            with open(f"/proc/{pid}/{name}", "rb") as file:
                assert MARKS["secret"].encode() not in file.read()
    assert holding(node.data, MARKS["secret"]) == []


def limpet(
    node: RunningNode, *arguments: str, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "limpet", "--socket", str(node.socket_path), *arguments]
    return subprocess.run(
        command, env=node.environment(), capture_output=True, timeout=60, check=False, **options
    )


# The key file


def key_file(node: RunningNode) -> Path:
    return node.directory / "data.key"


def where(node: RunningNode) -> list[str]:
    return ["--data", str(node.data), "--socket", str(node.socket_path)]


@pytest.mark.parametrize("what", ["missing", "damaged", "open", "another"])
def test_without_its_key_a_node_does_not_start(fresh_node: RunningNode, what: str) -> None:
    node = fresh_node
    node.apply(config_map("kept", a="1"))
    node.stop()
    path = key_file(node)
    good = path.read_bytes()
    before = {file: file.read_bytes() for file in files(node.data)}
    expected = {
        "missing": (6, "without it nobody can read this node's data"),
        "damaged": (6, "is damaged"),
        "open": (5, "chmod 600"),
        "another": (2, "the unlock key does not open"),
    }[what]
    if what == "missing":
        path.unlink()
    elif what == "damaged":
        path.write_bytes(good[:-10])
    elif what == "open":
        path.chmod(0o640)
    elif what == "another":
        path.write_bytes(b"00" * 32)
    code, said = run_node(*where(node))
    assert (code, expected[1] in said, str(node.directory) in said) == (expected[0], True, True), (
        said
    )
    assert "Traceback" not in said
    assert path.exists() == (what != "missing")
    assert {file: file.read_bytes() for file in files(node.data)} == before
    path.write_bytes(good)
    path.chmod(0o600)
    node.start()
    assert [item["name"] for item in node.client.objects()] == ["kept"]


def test_keys_are_rotated_while_apps_run(fresh_node: RunningNode) -> None:
    node = fresh_node
    plant(node)
    old = key_file(node).read_bytes()
    asked = limpet(node, "key", "rotate", "--dry-run")
    assert b"would get generation 2" in asked.stdout
    assert key_file(node).read_bytes() == old
    pid = node.pid("served")
    told = limpet(node, "key", "rotate")
    assert told.returncode == 0, told.stderr
    assert b"the node key has generation 2" in told.stdout
    assert b"volumes are encrypted anew" in told.stdout
    new = key_file(node).read_bytes()
    assert new != old
    assert node.pid("served") == pid
    assert node.request("served").status == 200
    assert node.events("test", "KeysRotated")
    assert old.strip() not in told.stdout
    assert new.strip() not in told.stdout + limpet(node, "key", "show", "-o", "json").stdout
    node.restart()
    node.wait_ready("served")
    assert node.client.keys()["generation"] == 2
    assert "line 20" in node.logs("ticking")
    node.stop()
    key_file(node).write_bytes(old)
    assert run_node(*where(node))[0] == 2
    key_file(node).write_bytes(new)
    node.start()


@needs_loop_devices
def test_volumes_are_encrypted_anew_at_the_start_after_a_rotation(fresh_node: RunningNode) -> None:
    node = fresh_node
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "kept"}}
    app = http_app("keeper", "fill_volume", mounts={"/data": "data"}, volumes=[volume])
    node.apply(claim("kept"), app)
    node.wait_ready("keeper")
    assert ask(node.port("keeper"), "/?mb=2").body.endswith(b"errno 0\n")
    identity = node.data / "volumes" / "default" / "kept" / "volume.json"
    before = json.loads(identity.read_bytes())
    assert limpet(node, "key", "rotate").returncode == 0
    assert json.loads(identity.read_bytes()) == before
    node.stop()

    node.start()
    status = node.wait_ready("keeper")
    after = json.loads(identity.read_bytes())
    assert after["generation"] == before["generation"] + 1
    assert after["id"] != before["id"]
    assert status["volumes"][0]["usage"]["used_bytes"] >= 2 << 20
    assert [path.name for path in identity.parent.parent.iterdir()] == ["kept"]
    assert node.events("keeper", "VolumeReencrypted")


def test_a_kill_while_keys_are_rotated_loses_nothing(fresh_node: RunningNode) -> None:
    """Agents are killed at moments all over a rotation, the node now and then."""
    node = fresh_node
    node.apply(config_map("kept", a="1"))
    for number in range(12):
        agent = node.pid("agent")
        rotating = subprocess.Popen(
            [sys.executable, "-c", _ROTATE, str(node.socket_path)],
            env=node.environment(),
            stdout=subprocess.PIPE,
        )
        assert rotating.stdout is not None
        assert rotating.stdout.readline() == b"now\n"
        wait_until = _spin(number)
        if number % 4 == 3:
            node.kill()
            node.start()
        else:
            os.kill(agent, signal.SIGKILL)
            wait_for(lambda agent=agent: not is_alive(agent), "the agent's end")
        rotating.wait(20)
        rotating.stdout.close()
        node.wait_up()
        assert [item["name"] for item in node.client.objects()] == ["kept"], wait_until
        assert sorted(path.name for path in node.directory.glob("data.key*")) == ["data.key"]
    print(f"generation {node.client.keys()['generation']} after 12 kills")


_ROTATE = """
import sys
from pathlib import Path
from limpet.api.client import Client
from limpet.errors import LimpetError
client = Client(Path(sys.argv[1]), timeout_seconds=10)
print("now", flush=True)
try:
    client.rotate_keys()
except LimpetError:
    pass
"""


def _spin(number: int) -> int:
    """Let a different, short time pass: moments of a rotation, not patience."""
    return sum(range(number * 60_000))


# A credential


def test_a_credential_of_systemd_unlocks(
    make_node: Callable[..., RunningNode], tmp_path: Path
) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir(mode=0o500)
    (credentials / "limpet.key").write_text("ab" * 32 + "\n")
    node = make_node(LIMPET_KEYS_SOURCE="credential", CREDENTIALS_DIRECTORY=str(credentials))
    node.start()
    node.apply(config_map("kept", a="1"))
    assert b"the unlock key stays" in limpet(node, "key", "rotate").stdout
    node.restart()
    assert node.client.keys()["generation"] == 2
    assert [item["name"] for item in node.client.objects()] == ["kept"]
    assert not key_file(node).exists()
    node.stop()


# A passphrase


class PassphraseNode(RunningNode):
    """Started by `limpet up`, which reads the passphrase from a pipe."""

    passphrase = PASSPHRASE

    def start(self, *, is_awaited: bool = True) -> None:
        reader, writer = os.pipe()
        os.write(writer, self.passphrase + b"\n")
        os.close(writer)
        options = [*where(self), "--name", "test", "--passphrase-fd", str(reader)]
        with (self.directory / "node.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "limpet", "up", *options],
                env=self.environment(),
                stdout=log,
                stderr=log,
                process_group=0,
                pass_fds=[reader],
            )
        os.close(reader)
        if is_awaited:
            self.wait_up()


@pytest.fixture
def locked_node(tmp_path: Path) -> Iterator[PassphraseNode]:
    directory = tmp_path / "p"
    directory.mkdir()
    node = PassphraseNode(directory, {"LIMPET_KEYS_SOURCE": "passphrase"})
    node.start()
    yield node
    node.kill()


def test_a_passphrase_is_asked_once_and_agents_come_back_without(
    locked_node: PassphraseNode,
) -> None:
    node = locked_node
    plant(node)
    agent = node.pid("agent")
    os.kill(agent, signal.SIGKILL)
    wait_for(lambda: not is_alive(agent), "the agent's end")
    node.wait_up()
    node.wait_ready("served")
    assert node.request("served").variables()["WORD"] == MARKS["secret"]
    for pid in node.pids():
        for name in ("cmdline", "environ"):
            with open(f"/proc/{pid}/{name}", "rb") as file:
                assert PASSPHRASE not in file.read()
    assert not list(node.directory.glob("*.key"))
    assert holding(node.directory, PASSPHRASE.decode(), *MARKS.values()) == []
    node.restart()
    node.wait_ready("served")


def unlock_descriptors(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    names = []
    for entry in os.listdir(folder):
        with contextlib.suppress(OSError):
            names.append(os.readlink(f"{folder}/{entry}"))
    return [name for name in names if "limpet-unlock" in name]


def test_nobody_else_inherits_the_key(locked_node: PassphraseNode) -> None:
    node = locked_node
    plant(node)
    holders = {node.pid("launcher"), node.pid("agent")}
    assert {pid for pid in node.pids() if unlock_descriptors(pid)} == holders


def test_a_wrong_passphrase_changes_nothing(locked_node: PassphraseNode) -> None:
    node = locked_node
    node.apply(config_map("kept", a="1"))
    node.stop()
    before = {path: path.read_bytes() for path in files(node.data)}
    node.passphrase = b"correct horse battery stable"
    node.start(is_awaited=False)
    assert node.process is not None
    assert node.process.wait(20) == 2
    assert "the passphrase is wrong" in node.output()
    assert "Traceback" not in node.output()
    assert {path: path.read_bytes() for path in files(node.data)} == before
    node.passphrase = PASSPHRASE
    node.start()
    assert [item["name"] for item in node.client.objects()] == ["kept"]


def test_a_passphrase_is_changed(locked_node: PassphraseNode) -> None:
    node = locked_node
    node.apply(config_map("kept", a="1"))
    reader, writer = os.pipe()
    os.write(writer, b"another passphrase\n")
    os.close(writer)
    told = limpet(node, "key", "rotate", "--passphrase-fd", str(reader), pass_fds=[reader])
    os.close(reader)
    assert told.returncode == 0, told.stderr
    agent = node.pid("agent")
    os.kill(agent, signal.SIGKILL)
    wait_for(lambda: not is_alive(agent), "the agent's end")
    node.wait_up()
    node.stop()
    node.start(is_awaited=False)
    assert node.process is not None
    assert node.process.wait(20) == 2
    node.passphrase = b"another passphrase"
    node.start()
    assert [item["name"] for item in node.client.objects()] == ["kept"]
    assert node.client.keys()["generation"] == 2


def test_a_node_killed_while_its_passphrase_changes_has_the_old_or_the_new(
    locked_node: PassphraseNode,
) -> None:
    node = locked_node
    node.apply(config_map("kept", a="1"))
    words = [PASSPHRASE]
    for number in range(4):
        words.append(b"passphrase number %d" % number)
        how = new_stretching()
        key = stretch(words[-1], how)
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                node.client.rotate_keys(
                    unlock_key=key,
                    scrypt={"salt": how.salt, "n": how.n, "r": how.r, "p": how.p},
                )
            os._exit(0)
        _spin(number * 3)
        node.kill()
        os.waitpid(pid, 0)
        for word in (words[-1], words[-2]):
            node.passphrase = word
            node.start(is_awaited=False)
            assert node.process is not None
            if _comes_up(node):
                break
        assert [item["name"] for item in node.client.objects()] == ["kept"]
        words.append(node.passphrase)


def _comes_up(node: PassphraseNode) -> bool:
    def is_decided() -> bool:
        assert node.process is not None
        if node.process.poll() is not None:
            return True
        with contextlib.suppress(LimpetError):
            return bool(node.client.node()["engine"])
        return False

    wait_for(is_decided, "the node or its refusal")
    assert node.process is not None
    return node.process.poll() is None


def test_a_plain_node_of_an_earlier_version_is_encrypted(
    make_node: Callable[..., RunningNode],
) -> None:
    import apsw

    from limpet.store.database import _MIGRATIONS

    node = make_node()
    node.data.mkdir()
    plain = apsw.Connection(str(node.data / "state.db"))
    plain.execute(_MIGRATIONS[0])
    plain.pragma("user_version", 1)
    body = '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"old"},"data":{"a":"planted"}}'
    plain.execute("INSERT INTO objects VALUES ('ConfigMap','default','old',1,1.0,?,NULL)", (body,))
    plain.close()
    folder = node.data / "logs" / "default" / "old"
    folder.mkdir(parents=True)
    (folder / "log").write_text("1.0 o old-0 1 planted line\n")
    (node.data / "artifact.key").write_bytes(bytes(32))
    node.start()
    assert [item["name"] for item in node.client.objects()] == ["old"]
    assert holding(node.data, "planted") == []
    node.stop()
    assert holding(node.data, "planted") == []
    assert not (node.data / "logs").exists()


def test_logs_that_are_damaged_keep_no_node_from_starting(fresh_node: RunningNode) -> None:
    node = fresh_node
    node.apply(command_app("ticking", "job_lines", env={"GUEST_MS": "10"}))
    wait_for(lambda: "line 5" in node.logs("ticking"), "lines")
    node.stop()
    (node.data / "logs.db").write_bytes(b"no database at all" * 1000)
    node.start()
    wait_for(lambda: "line 5" in node.logs("ticking"), "new lines")
    assert node.events("test", "LogsSetAside")


def test_a_killed_agent_loses_no_more_than_a_second_of_lines(fresh_node: RunningNode) -> None:
    node = fresh_node
    node.apply(command_app("ticking", "job_lines", env={"GUEST_MS": "10"}))
    wait_for(lambda: "line 200" in node.logs("ticking"), "two hundred lines")
    told = len(node.logs("ticking"))
    agent = node.pid("agent")
    os.kill(agent, signal.SIGKILL)
    wait_for(lambda: not is_alive(agent), "the agent's end")
    node.wait_up()
    assert len(node.logs("ticking")) >= told, "what was read had been written"


def test_the_answer_of_an_app_does_not_depend_on_the_key_source(fresh_node: RunningNode) -> None:
    fresh_node.apply(http_app("served", "echo"))
    fresh_node.wait_ready("served")
    assert ask(fresh_node.port("served")).status == 200
    assert fresh_node.client.keys()["source"] == "file"


@needs_loop_devices
def test_an_app_that_is_changed_while_its_volume_is_made(fresh_node: RunningNode) -> None:
    """What prepares it begins anew; the volume that is being made is made once, with one key."""
    volume = [{"name": "v", "persistentVolumeClaim": {"claimName": "kept"}}]

    def change(number: int) -> None:
        arguments = [str(number)]
        made = http_app("writing", "echo", volumes=volume, mounts={"/data": "v"}, args=arguments)
        fresh_node.apply(made)

    fresh_node.apply(claim("kept"))
    change(1)
    identity = fresh_node.data / "volumes" / "default" / "kept" / "volume.json"
    wait_for(identity.exists, "the volume's making")
    change(2)
    fresh_node.wait_ready("writing", generation=2)
    assert not fresh_node.events("writing", "VolumeKeyRefused")
    assert not fresh_node.events("writing", "VolumeBusy")
