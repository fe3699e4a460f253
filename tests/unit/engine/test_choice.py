"""Which engine runs what, and as what it is run."""

from __future__ import annotations

import pytest

from limpet.engine.choice import choose_engine, suggested_trigger, uses_socket_extension
from limpet.engine.protocol import ModuleError

PREVIEW1 = ("wasi_snapshot_preview1.fd_write", "wasi_snapshot_preview1.sock_accept")
SERVER = (*PREVIEW1, "wasi_snapshot_preview1.sock_open", "wasi_snapshot_preview1.sock_listen")
CLIENT = (*PREVIEW1, "wasi_snapshot_preview1.sock_open", "wasi_snapshot_preview1.sock_connect")
COMPONENT = ("wasi:cli/stdout@0.2.3", "wasi:io/streams@0.2.3")
BOTH = {"wasmtime": "", "wasmedge": ""}
ALONE = {"wasmtime": ""}
BROKEN = {"wasmtime": "", "wasmedge": "its library is of another machine"}


@pytest.mark.parametrize(
    ("wanted", "imports", "usable", "engine", "reason"),
    [
        ("auto", PREVIEW1, BOTH, "wasmtime", "the default"),
        ("auto", (), ALONE, "wasmtime", "the default"),
        ("auto", SERVER, BOTH, "wasmedge", "socket functions"),
        ("auto", CLIENT, BOTH, "wasmedge", "socket functions"),
        ("auto", SERVER, ALONE, "wasmtime", "limpet engine list"),
        ("auto", SERVER, BROKEN, "wasmtime", "work the same there"),
        ("auto", PREVIEW1, {"wasmtime": "gone", "wasmedge": ""}, "wasmedge", "gone"),
        ("auto", COMPONENT, BOTH, "wasmtime", "components"),
        ("wasmtime", SERVER, BOTH, "wasmtime", "asked for"),
        ("wasmtime", COMPONENT, ALONE, "wasmtime", "asked for"),
        ("wasmedge", PREVIEW1, BOTH, "wasmedge", "asked for"),
    ],
)
def test_the_engine_that_is_chosen(wanted, imports, usable, engine, reason) -> None:
    choice = choose_engine(wanted, imports, is_component=imports == COMPONENT, usable=usable)
    assert choice.engine == engine
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("wanted", "imports", "usable", "parts"),
    [
        ("wasmedge", COMPONENT, BOTH, ["WasmEdge", "components", "wasm32-wasip1"]),
        ("wasmedge", PREVIEW1, ALONE, ["not installed", "limpet engine install wasmedge"]),
        ("wasmedge", PREVIEW1, BROKEN, ["another machine", "limpet engine install wasmedge"]),
        ("wasmtime", PREVIEW1, {"wasmedge": ""}, ["wasmtime", "not installed"]),
        ("auto", COMPONENT, {"wasmedge": ""}, ["components need", "wasmtime"]),
        ("auto", PREVIEW1, {}, ["no engine", "wasmtime: ", "wasmedge: "]),
        ("v8", PREVIEW1, BOTH, ["'v8'", "auto, wasmtime, wasmedge"]),
    ],
)
def test_an_engine_that_can_not_run_it(wanted, imports, usable, parts) -> None:
    with pytest.raises(ModuleError) as caught:
        choose_engine(wanted, imports, is_component=imports == COMPONENT, usable=usable)
    for part in parts:
        assert part in str(caught.value)


def test_help_is_not_said_twice() -> None:
    why = "there is none: run `limpet engine install wasmedge`"
    with pytest.raises(ModuleError) as caught:
        choose_engine("wasmedge", (), is_component=False, usable={"wasmedge": why})
    assert str(caught.value).count("limpet engine install") == 1


@pytest.mark.parametrize(
    ("imports", "exports", "trigger"),
    [
        (PREVIEW1, (), "http"),
        (CLIENT, (), "http"),
        (SERVER, (), "socket"),
        (("wasi_snapshot_preview1.sock_listen_v2",), (), "socket"),
        (("env.sock_listen",), (), "http"),
        (COMPONENT, ("wasi:cli/run@0.2.3",), "http"),
        ((*COMPONENT, "wasi:sockets/tcp@0.2.0"), ("wasi:cli/run@0.2.3",), "socket"),
        (("wasi:sockets/tcp@0.2.0",), ("wasi:http/incoming-handler@0.2.0",), "http"),
        (("wasi:sockets/tcp@0.2.12.[method]tcp-socket.start-listen",), (), "socket"),
        (("wasi:sockets/tcp@0.2.12.[method]tcp-socket.start-connect",), (), "http"),
        (("wasi:sockets/tcp-create-socket@0.2.12.create-tcp-socket",), (), "http"),
        (("wasi:sockets/udp@0.2.0",), (), "http"),
    ],
)
def test_the_trigger_when_nobody_says(imports, exports, trigger) -> None:
    assert suggested_trigger(imports, exports) == trigger


def test_preview_1_has_socket_functions_of_its_own() -> None:
    assert not uses_socket_extension(PREVIEW1)
    assert uses_socket_extension(CLIENT)
