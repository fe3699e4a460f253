import asyncio
import contextlib
import errno
import hashlib
import json
import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from limpet import errors
from limpet.api import server as server_module
from limpet.api.routes import error_response
from limpet.api.server import ApiServer
from limpet.errors import UnavailableError
from limpet.node.agent import Agent
from limpet.node.launcher import Inheritance
from limpet.plan import AppKey
from limpet.settings import LogSettings, NodeSettings, Settings
from limpet.store.modules import StagedModule
from limpet.worker.channel import Channel

MODULE = b"\0asm\1\0\0\0" + b"x" * 100_000
DIGEST = f"sha256:{hashlib.sha256(MODULE).hexdigest()}"
MODULES = f"/v1/modules/{DIGEST}"
CONFIG = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "c"},
    "data": {"k": "v"},
}
SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "s"},
    "data": {"k": "aHVudGVyMg=="},
    "stringData": {"l": "hunter2"},
}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "a"},
    "spec": {"containers": [{"name": "a", "image": "a.wasm"}]},
}


class Caller:
    """One connection to the API."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    def send(self, method, target, body=b"", *headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        lines = [f"{method} {target} HTTP/1.1", "Host: limpet", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        return self

    async def head(self):
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), headers

    async def answer(self):
        """Read one answer: status, headers, document."""
        status, headers = await self.head()
        body = await self.reader.readexactly(int(headers["Content-Length"]))
        return status, headers, json.loads(body) if body else None

    async def call(self, *request):
        status, _, document = await self.send(*request).answer()
        return status, document

    async def fails(self, *request):
        """Call; the status and the error's reason and message."""
        status, document = await self.call(*request)
        return status, document["error"]["reason"], document["error"]["message"]

    async def chunk(self):
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def chunks(self):
        whole = b""
        while data := await self.chunk():
            whole += data
        return whole

    async def apply(self, *objects, **options):
        entries = [entry if "object" in entry else {"object": entry} for entry in objects]
        return await self.call("POST", "/v1/apply", {"objects": entries, **options})


class Api:
    """A real agent that runs nothing, behind a real server."""

    def __init__(self, folder):
        self.path = folder / "api.sock"
        settings = Settings(
            node=NodeSettings(data_directory=folder / "data", socket_path=self.path, name="rock"),
            logs=LogSettings(),
        )
        self.launcher, theirs = Channel.pair()
        self.agent = Agent(
            settings,
            launcher=theirs,
            inheritance=Inheritance(sockets={}),
        )
        self._theirs = theirs
        self.agent.keys.open()
        self.server = ApiServer(self.agent)
        self._callers = []

    async def caller(self):
        caller = Caller(*await asyncio.open_unix_connection(str(self.path)))
        self._callers.append(caller)
        return caller

    @property
    def staged(self):
        return list((self.agent.settings.node.data_directory / "modules").glob(".*"))

    async def close(self):
        for caller in self._callers:
            caller.writer.close()
            with contextlib.suppress(ConnectionError):
                await caller.writer.wait_closed()
        await self.server.stop()
        await until(lambda: not self.server.connections)
        tasks = self.agent._preparer.cancel_all()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for runtime in self.agent.apps.values():
            runtime.close()
        self.agent.logs.close()
        self.agent.database.close()
        self.launcher.close()
        self._theirs.close()


async def until(condition):
    while not condition():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.001)


@pytest.fixture
def play():
    """Run a scene with a served agent."""

    def run(scene):
        async def main(folder):
            async with asyncio.timeout(20):
                api = Api(folder)
                await api.server.start(api.path)
                try:
                    await scene(api)
                finally:
                    await api.close()

        with tempfile.TemporaryDirectory(prefix="limpet-test-") as folder:
            asyncio.run(main(Path(folder)))

    return run


def calls(scene):
    """A test that is one scene of one caller."""

    def test(play):
        async def one(api):
            await scene(api, await api.caller())

        play(one)

    test.__name__ = scene.__name__
    return test


# The socket


@calls
async def test_only_the_node_s_user_may_connect(api, caller):
    assert stat.S_IMODE(api.path.stat().st_mode) == 0o600
    assert os.listdir(api.path.parent).count("api.sock") == 1
    status, document = await caller.call("GET", "/v1/node")
    assert (status, document["name"]) == (200, "rock")


def test_the_socket_of_a_node_that_died_is_replaced(play):
    async def scene(api):
        with socket.socket(socket.AF_UNIX) as dead:
            other = api.path.with_name("other.sock")
            dead.bind(str(other))
        second = ApiServer(api.agent)
        await second.start(other)
        reader, writer = await asyncio.open_unix_connection(str(other))
        assert (await Caller(reader, writer).call("GET", "/v1/node"))[0] == 200
        writer.close()
        await second.stop()
        assert not other.exists()

    play(scene)


@pytest.mark.parametrize("name", ["x" * 200, "file/api.sock"])
def test_a_socket_that_can_not_be_made_is_said(play, name):
    async def scene(api):
        (api.path.parent / "file").write_text("in the way")
        with pytest.raises(UnavailableError, match="can't listen on"):
            await ApiServer(api.agent).start(api.path.parent / name)

    play(scene)


def test_callers_have_a_largest_number(play, monkeypatch):
    monkeypatch.setattr(server_module, "_MAX_CONNECTIONS", 2)

    async def scene(api):
        one, two, three = [await api.caller() for _ in range(3)]
        assert (await one.call("GET", "/v1/node"))[0] == 200
        assert (await two.call("GET", "/v1/node"))[0] == 200
        with contextlib.suppress(ConnectionError):
            assert await three.reader.read() == b""
        one.writer.close()
        await until(lambda: len(api.server.connections) == 1)
        assert (await (await api.caller()).call("GET", "/v1/node"))[0] == 200

    play(scene)


def test_a_stranger_is_shown_the_door(play, monkeypatch):
    monkeypatch.setattr(server_module, "_peer_uid", lambda _: 12345)

    async def scene(api):
        caller = await api.caller()
        with contextlib.suppress(ConnectionError):
            assert await caller.send("GET", "/v1/node").reader.read() == b""
        assert not api.server.connections

    play(scene)


def test_the_kernel_says_who_calls():
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        assert server_module._peer_uid(left) == os.geteuid()


# Calls


@calls
async def test_one_connection_serves_many_calls_in_order(api, caller):
    caller.send("GET", "/v1/node").send("GET", "/v1/none").send("GET", "/v1/apps")
    assert [(await caller.answer())[0] for _ in range(3)] == [200, 404, 200]


@calls
async def test_what_there_is_not_is_said(api, caller):
    for method, target in [
        ("GET", "/"),
        ("GET", "/v2/node"),
        ("POST", "/v1/node"),
        ("GET", "/v1/apps/default"),
        ("GET", "/v1/apps/default/a"),
        ("GET", "/v1/apps/default/a/logs"),
        ("DELETE", "/v1/objects/Pod/default/a"),
        ("PUT", "/v1/modules"),
        ("PUT", "/v1/%6dodules/sha256:0"),
        ("PUT", "/v1/modules/a/b"),
        ("TRACE", "/v1/node"),
    ]:
        status, reason, _ = await caller.fails(method, target)
        assert (status, reason) == (404, "NotFound"), target
    assert api.staged == []


@calls
async def test_a_broken_request_is_refused(api, caller):
    caller.writer.write(b"GET /v1/node HTTP/1.1\r\n\r\n")
    assert (await caller.head())[0] == 400


@pytest.mark.parametrize(
    "kind",
    [
        errors.LimpetError,
        errors.InvalidInputError,
        errors.NotFoundError,
        errors.ConflictError,
        errors.DeniedError,
        errors.UnavailableError,
        errors.TemporaryError,
    ],
)
def test_an_error_has_its_category_s_status_and_one_shape(kind):
    response = error_response(kind("what happened"))
    assert response.status == kind.http_status
    assert json.loads(response.body) == {
        "error": {"reason": kind.reason, "message": "what happened"}
    }
    assert ((b"Retry-After", b"1") in response.headers) is kind.is_retryable


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (OSError(errno.ENOSPC, "no space"), 503, "NodeFailure"),
        (RuntimeError("a defect"), 500, "InternalError"),
    ],
)
def test_a_call_that_meets_an_error_is_answered(play, monkeypatch, capfd, error, status, reason):
    def fail(*_):
        raise error

    async def scene(api):
        monkeypatch.setattr(api.agent, "delete", fail)
        caller = await api.caller()
        found = await caller.fails("DELETE", "/v1/objects/Pod/default/a")
        assert found[:2] == (status, reason)
        assert (await caller.call("GET", "/v1/node"))[0] == 200

    play(scene)
    assert ("RuntimeError: a defect" in capfd.readouterr().err) is (status == 500)


# Modules


@calls
async def test_a_module_is_uploaded_once_and_found(api, caller):
    assert (await caller.send("HEAD", MODULES).head())[0] == 404
    assert await caller.call("PUT", MODULES, MODULE) == (201, {"digest": DIGEST})
    assert (await caller.send("HEAD", MODULES).head())[0] == 200
    assert api.agent.store.has_module(DIGEST)
    assert api.staged == []


@calls
async def test_a_module_may_follow_another_call_at_once(api, caller):
    caller.send("GET", "/v1/node").send("PUT", MODULES, MODULE).send("GET", "/v1/node")
    assert [(await caller.answer())[0] for _ in range(3)] == [200, 201, 200]


@calls
async def test_two_modules_may_follow_each_other(api, caller):
    other = f"sha256:{hashlib.sha256(b'other').hexdigest()}"
    caller.send("PUT", MODULES, MODULE).send("PUT", f"/v1/modules/{other}", b"other")
    assert [(await caller.answer())[0] for _ in range(2)] == [201, 201]
    assert api.agent.store.has_module(DIGEST)
    assert api.agent.store.has_module(other)


@calls
async def test_other_bytes_than_promised_are_refused(api, caller):
    status, reason, message = await caller.fails("PUT", MODULES, MODULE + b"!")
    assert (status, reason) == (400, "DigestMismatch")
    assert DIGEST in message
    assert (await caller.fails("PUT", "/v1/modules/..%2F..%2Fx", b"x"))[:2] == (
        400,
        "DigestMismatch",
    )
    assert (await caller.send("HEAD", "/v1/modules/x").head())[0] == 400
    assert api.staged == []


@calls
async def test_an_upload_that_breaks_off_leaves_nothing(api, caller):
    caller.writer.write(
        f"PUT {MODULES} HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nabc".encode()
    )
    await until(lambda: api.staged)
    caller.writer.close()
    await until(lambda: not api.staged)


@calls
async def test_uploads_that_wait_their_turn_leave_nothing_when_the_caller_goes(api, caller):
    release = asyncio.Event()
    real = server_module.Routes.answer

    async def answer(self, request, sink):
        await release.wait()
        return await real(self, request, sink)

    server_module.Routes.answer = answer
    try:
        caller.send("GET", "/v1/node").send("PUT", MODULES, MODULE)
        await until(lambda: api.staged)
        caller.writer.close()
        await until(lambda: not api.staged)
    finally:
        server_module.Routes.answer = real


def test_a_full_disk_ends_an_upload_in_words(play, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(StagedModule, "write", fail)

    async def scene(api):
        caller = await api.caller()
        caller.send("PUT", MODULES, MODULE)
        status, headers = await caller.head()
        assert (status, headers["Connection"]) == (503, "close")
        assert b"No space left" in await caller.reader.read()
        await until(lambda: not api.staged)

    play(scene)


def test_a_node_that_can_not_take_modules_says_so(play, monkeypatch):
    async def scene(api):
        def fail():
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(api.agent.store, "create_module", fail)
        caller = await api.caller()
        assert (await caller.send("PUT", MODULES, MODULE).head())[0] == 503

    play(scene)


# Objects


@calls
async def test_objects_are_created_configured_and_left_alone(api, caller):
    for document, action, generation in [
        (CONFIG, "created", 1),
        (CONFIG, "unchanged", 1),
        (CONFIG | {"data": {"k": "w"}}, "configured", 2),
    ]:
        status, answer = await caller.apply(document)
        assert status == 200
        assert answer["results"] == [
            {
                "kind": "ConfigMap",
                "namespace": "default",
                "name": "c",
                "action": action,
                "warnings": [],
            }
        ]
        _, found = await caller.call("GET", "/v1/objects")
        assert [item["generation"] for item in found["items"]] == [generation]
        assert found["items"][0]["object"] == document


@calls
async def test_a_dry_run_changes_nothing(api, caller):
    status, answer = await caller.apply(CONFIG, dry_run=True)
    assert (status, answer["results"][0]["action"]) == (200, "created")
    assert (await caller.call("GET", "/v1/objects"))[1] == {"items": []}


@calls
async def test_all_objects_or_none(api, caller):
    broken = CONFIG | {"metadata": {"name": "d"}, "dta": {}}
    status, answer = await caller.apply(CONFIG, broken)
    assert status == 400
    [problem] = answer["error"]["problems"]
    assert (problem["path"], bool(problem["why"])) == ("dta", True)
    status, answer = await caller.apply(CONFIG, CONFIG)
    assert (status, answer["error"]["reason"]) == (409, "Conflict")
    assert (await caller.call("GET", "/v1/objects"))[1] == {"items": []}


@calls
async def test_what_is_no_request_to_apply_is_refused(api, caller):
    for body in [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"[" * 100_000,
        {},
        {"objects": []},
        {"objects": {}},
        {"objects": [1]},
        {"objects": [{}]},
        {"objects": [{"object": []}]},
        {"objects": [{"object": CONFIG, "digest": 1}]},
        {"objects": [{"object": {}}]},
        {"objects": [{"object": CONFIG | {"data": {"k": "\ud800"}}}]},
    ]:
        status, document = await caller.call("POST", "/v1/apply", body)
        assert status == 400, body
        assert document["error"]["message"]
    assert (await caller.call("GET", "/v1/objects"))[1] == {"items": []}


@calls
async def test_secrets_are_not_shown(api, caller):
    assert (await caller.apply(SECRET))[0] == 200
    _, found = await caller.call("GET", "/v1/objects?kind=Secret")
    assert found["items"][0]["object"]["data"] == {"k": "<12 characters>"}
    assert found["items"][0]["object"]["stringData"] == {"l": "<7 characters>"}
    assert "hunter2" not in json.dumps(found)
    assert "aHVudGVyMg" not in json.dumps(found)


@calls
async def test_objects_can_be_chosen_and_deleted(api, caller):
    other = CONFIG | {"metadata": {"name": "d", "namespace": "other"}}
    await caller.apply(CONFIG, other, SECRET)

    async def names(query):
        _, found = await caller.call("GET", f"/v1/objects{query}")
        return [item["name"] for item in found["items"]]

    assert await names("") == ["c", "d", "s"]
    assert await names("?kind=ConfigMap") == ["c", "d"]
    assert await names("?namespace=other") == ["d"]
    assert await names("?kind=ConfigMap&namespace=default&name=c") == ["c"]
    assert await names("?name=none") == []
    target = "/v1/objects/ConfigMap/default/c"
    assert await caller.call("DELETE", target) == (200, {"deleted": True, "warnings": []})
    assert (await caller.call("DELETE", target))[0] == 404
    assert await names("") == ["d", "s"]


# Apps


async def apply_pod(api, caller):
    assert (await caller.call("PUT", MODULES, MODULE))[0] == 201
    assert (await caller.apply({"object": POD, "digest": DIGEST}))[0] == 200
    return api.agent.apps[AppKey("default", "a")]


@calls
async def test_an_app_needs_its_module(api, caller):
    status, answer = await caller.apply({"object": POD, "digest": DIGEST})
    assert (status, answer["error"]["reason"]) == (404, "NotFound")
    status, answer = await caller.apply(POD)
    assert (status, answer["error"]["reason"]) == (400, "Invalid")


@calls
async def test_an_app_is_shown_before_it_runs(api, caller):
    await apply_pod(api, caller)
    status, app = await caller.call("GET", "/v1/apps/default/a")
    assert status == 200
    assert (app["kind"], app["name"], app["phase"], app["ready"]) == ("Pod", "a", "Pending", 0)
    assert app["workers"] == []
    _, every = await caller.call("GET", "/v1/apps")
    assert [item["name"] for item in every["items"]] == ["a"]
    assert (await caller.call("GET", "/v1/apps?namespace=other"))[1] == {"items": []}


@calls
async def test_events_can_be_chosen(api, caller):
    for number in range(150):
        api.agent.events.record("R", str(number), of=("Pod", "default", f"a{number % 2}"))

    async def messages(query):
        _, found = await caller.call("GET", f"/v1/events{query}")
        return [event["message"] for event in found["items"]]

    assert await messages("") == [str(number) for number in range(50, 150)]
    assert await messages("?limit=2") == ["148", "149"]
    assert await messages("?name=a1&limit=1") == ["149"]
    assert await messages("?namespace=other") == []
    for bad in ("-1", "x", "1.5", "1e3", "%D9%A1", "9999999999"):
        status, _, message = await caller.fails("GET", f"/v1/events?limit={bad}")
        assert (status, "expected a whole number" in message) == (400, True), bad


@calls
async def test_a_log_is_streamed_as_it_is_asked_for(api, caller):
    runtime = await apply_pod(api, caller)
    for number in range(1200):
        runtime.log.append(b"line %d\n" % number, stream=b"o", worker="a-0", incarnation=1)
    logs = "/v1/apps/default/a/logs"
    status, headers = await caller.send("GET", logs).head()
    assert (status, headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert headers["Transfer-Encoding"] == "chunked"
    body = await caller.chunks()
    assert body.decode().splitlines() == [f"line {number}" for number in range(1200)]
    assert await caller.reader.read() == b""
    caller = await api.caller()
    _, headers = await caller.send("GET", f"{logs}?tail=1&format=json").head()
    assert headers["Content-Type"] == "application/x-ndjson"
    record = json.loads(await caller.chunks())
    assert (record["line"], record["stream"], record["worker"]) == ("line 1199", "stdout", "a-0")
    caller = await api.caller()
    await caller.send("GET", f"{logs}?tail=1&timestamps=true").head()
    assert await caller.chunks() == f"{record['time']} line 1199\n".encode()
    caller = await api.caller()
    for query in ("tail=x", "tail=-1", "since=x", "since=-1", "since=nan", "since=inf"):
        assert (await caller.fails("GET", f"{logs}?{query}"))[0] == 400, query


@calls
async def test_an_empty_log_has_an_end(api, caller):
    await apply_pod(api, caller)
    await caller.send("GET", "/v1/apps/default/a/logs?previous=true&since=5").head()
    assert await caller.chunks() == b""


@calls
async def test_a_log_can_be_followed_until_the_caller_goes(api, caller):
    runtime = await apply_pod(api, caller)
    runtime.log.append(b"before\n", stream=b"o", worker="a-0", incarnation=1)
    await caller.send("GET", "/v1/apps/default/a/logs?follow=true").head()
    assert await caller.chunk() == b"before\n"
    await until(lambda: runtime.log._followers)
    runtime.log.append(b"one\ntwo\n", stream=b"o", worker="a-0", incarnation=1)
    seen = b""
    while seen != b"one\ntwo\n":
        seen += await caller.chunk()
    caller.writer.close()
    await until(lambda: not runtime.log._followers)


@calls
async def test_stopping_ends_those_who_follow(api, caller):
    runtime = await apply_pod(api, caller)
    await caller.send("GET", "/v1/apps/default/a/logs?follow=true").head()
    await until(lambda: runtime.log._followers)
    await api.server.stop()
    with contextlib.suppress(ConnectionError):
        assert await caller.reader.read() == b""
    await until(lambda: not runtime.log._followers)
