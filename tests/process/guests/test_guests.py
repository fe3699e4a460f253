"""The guests do what their sources say under a host that isn't Limpet."""

from __future__ import annotations

import pytest
import wasmtime

from . import COMPONENT, GUESTS, build_guest

NOT_MODULES = {"component", "not_wasm", "truncated"}


@pytest.fixture(scope="module")
def engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    config.consume_fuel = True
    return wasmtime.Engine(config)


def run(
    engine: wasmtime.Engine, name: str, *, query: str = "", body: bytes = b"", folder=None
) -> tuple[bytes, str]:
    """Run a guest with bounded fuel and memory: its output, and how it ended."""
    store = wasmtime.Store(engine)
    store.set_fuel(20_000_000)
    store.set_limits(memory_size=64 << 20)
    wasi = wasmtime.WasiConfig()
    wasi.argv = [name]
    wasi.env = [("QUERY_STRING", query)]
    (folder / "stdin").write_bytes(body)
    wasi.stdin_file = str(folder / "stdin")
    wasi.stdout_file = str(folder / "stdout")
    wasi.stderr_file = str(folder / "stderr")
    wasi.preopen_dir(str(folder), "/data")
    store.set_wasi(wasi)
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    ended = "returned"
    try:
        instance = linker.instantiate(store, wasmtime.Module.from_file(engine, build_guest(name)))
        instance.exports(store)["_start"](store)
    except wasmtime.ExitTrap as error:
        ended = f"exit {error.code}"
    except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
        ended = str(error)
    del store  # flushes its files
    return (folder / "stdout").read_bytes(), ended


@pytest.mark.parametrize("name", GUESTS)
def test_guest_is_what_it_claims(engine: wasmtime.Engine, name: str) -> None:
    module = build_guest(name)
    assert module == build_guest(name)
    if name in NOT_MODULES:
        with pytest.raises(wasmtime.WasmtimeError):
            wasmtime.Module.from_file(engine, module)
        return
    imports = {item.module for item in wasmtime.Module.from_file(engine, module).imports}
    assert imports <= ({"env"} if name == "unknown_import" else {"wasi_snapshot_preview1"})
    assert module.stat().st_size < 60_000


def test_unknown_guest_is_named() -> None:
    with pytest.raises(KeyError, match=r"no guest is called nobody: there are .*echo"):
        build_guest("nobody")


def test_component_is_recognisable() -> None:
    assert build_guest("component").read_bytes() == COMPONENT


@pytest.mark.parametrize(
    ("name", "query", "output", "ended"),
    [
        ("loop", "", b"", "fuel"),
        ("recurse", "", b"", "call stack exhausted"),
        ("recurse_and_store", "", b"", "call stack exhausted"),
        ("smash_stack", "", b"", "out of bounds memory access"),
        ("grow", "", b"", "unreachable"),
        ("take_all_memory", "", b"", "unreachable"),
        ("no_header", "", b"hello without a header\n", "returned"),
        ("empty", "", b"", "returned"),
        ("bad_status", "", b"Status: twelve\nContent-Type: text/plain\n\nbody\n", "returned"),
        ("bad_status", "status=20%0d0", b"Status: 20\r0\nContent-Type: text/plain\n\nbody\n", ""),
        ("exit_code", "", b"Content-Type: text/plain\n\nbody\n", "exit 3"),
        ("exit_code", "a=b&n=7&silent=1", b"", "exit 7"),
        ("trap", "", b"", "unreachable"),
        ("trap", "late=1", b"Content-Type: text/plain\n\nthe first half", "unreachable"),
        ("sleep", "ms=1", b"Content-Type: text/plain\n\nslept\n", "returned"),
        ("ignore_stdin", "", b"Content-Type: text/plain\n\nunread\n", "returned"),
        ("status_only", "n=204", b"Status: 204\n\n", "returned"),
        ("redirect", "", b"Location: /elsewhere\n\n", "returned"),
        ("redirect", "to=https://a.example/%3fb", b"Location: https://a.example/?b\n\n", ""),
        ("job_exit", "n=4", b"started\n", "exit 4"),
        ("open_file", "path=/nowhere", b"Content-Type: text/plain\n\nerrno 44\n", "returned"),
        ("fill_volume", "mb=2", b"Content-Type: text/plain\n\n2097152 errno 0\n", "returned"),
        ("unknown_import", "", b"", "env::foo"),
        ("memory_128m", "", b"", "memory"),
    ],
)
def test_guest_behaves(engine, tmp_path, name: str, query: str, output: bytes, ended: str) -> None:
    (tmp_path / "stdout").touch()
    written, how = run(engine, name, query=query, folder=tmp_path)
    assert written == output
    assert ended in how


def test_echo_repeats_everything(engine: wasmtime.Engine, tmp_path) -> None:
    body = bytes(range(256)) * 1000
    written, _ = run(engine, "echo", query="a=%41", body=body, folder=tmp_path)
    head, _, rest = written.partition(b"\n\n")
    assert head == b"Content-Type: application/octet-stream"
    assert rest == b"arg echo\nQUERY_STRING=a=%41\n\n" + body


@pytest.mark.parametrize(
    ("name", "query", "size"), [("big", "kib=5", 5), ("flood_stdout", "mb=1", 1024)]
)
def test_guest_answers_with_as_much_as_asked(engine, tmp_path, name, query, size) -> None:
    written, how = run(engine, name, query=query, folder=tmp_path)
    assert how == "returned"
    assert len(written.partition(b"\n\n")[2]) == size * 1024


def test_stderr_flood_reaches_stderr(engine: wasmtime.Engine, tmp_path) -> None:
    _, how = run(engine, "flood_stderr", query="mb=2", folder=tmp_path)
    assert how == "returned"
    log = (tmp_path / "stderr").read_bytes()
    assert len(log) == 2 << 20
    assert len(log.splitlines()[0]) == 63


def test_job_lines_never_end(engine: wasmtime.Engine, tmp_path) -> None:
    written, how = run(engine, "job_lines", folder=tmp_path)
    assert "fuel" in how
    assert written.startswith(b"line 1\nline 2\nline 3\n")


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("cr", b"X-Bad: a\rSet-Cookie: stolen=1\n"),
        ("nul", b"X-Bad: a\0b\n"),
        ("two_lengths", b"Content-Length: 5\nContent-Length: 6\n"),
    ],
)
def test_bad_header_sends_it(engine, tmp_path, kind: str, head: bytes) -> None:
    written, _ = run(engine, "bad_header", query=f"kind={kind}", folder=tmp_path)
    assert written == head + b"Content-Type: text/plain\n\nbody\n"
