"""What is told of a file: verdicts, problems and advice. How it looks: tests/unit/cli/test_inspect.py."""

from __future__ import annotations

import fuzz_inspect
import pytest
from guest_builds import build_guest, parse_wat
from hypothesis import given, settings
from hypothesis import strategies as st

from limpet.engine.component_binary import Extern
from limpet.engine.contents import COMPONENT, CORE_MODULE, OTHER
from limpet.engine.report import MemoryRoom, Report, compile_report
from limpet.engine.world import OFFERED, extern_problem

BOTH = {"wasmtime": "", "wasmedge": ""}
WASI = "wasi_snapshot_preview1"
START = '(memory (export "memory") 1) (func (export "_start"))'
LISTEN = f'(import "{WASI}" "sock_listen" (func (param i32 i32) (result i32)))'
RUN = """(core module $m (func (export "run") (result i32) i32.const 0))
    (core instance $i (instantiate $m))
    (func $run (result (result)) (canon lift (core func $i "run")))
    (instance $command (export "run" (func $run)))
    (export "wasi:cli/run@0.2.3" (instance $command))"""


def report_on(data: bytes | str, usable=BOTH, limit_bytes=64 << 20) -> Report:
    module = parse_wat(data) if isinstance(data, str) else data
    memory = MemoryRoom(limit_bytes=limit_bytes, worker_share_bytes=4 << 20)
    return compile_report(module, usable=usable, memory=memory)


def runs(report: Report) -> set[tuple[str, str]]:
    return {(each.engine, each.trigger) for each in report.verdicts if each.is_runnable}


def test_a_command_runs_on_both_engines_and_never_listens() -> None:
    report = report_on(f"(module {START})")
    assert report.contents.kind == CORE_MODULE
    assert runs(report) == {(engine, trigger) for engine in BOTH for trigger in ("http", "command")}
    assert (report.choice.engine, report.trigger) == ("wasmtime", "http")
    assert all("sock_listen" in each.note for each in report.verdicts if each.trigger == "socket")


def test_a_module_that_listens() -> None:
    report = report_on(f"(module {LISTEN} {START})")
    assert len(runs(report)) == 6
    assert (report.choice.engine, report.trigger) == ("wasmedge", "socket")
    assert [group.label for group in report.contents.imports] == ["WasmEdge's sockets"]
    notes = {each.trigger: each.note for each in report.verdicts}
    assert notes["socket"] == ""
    assert "port" in notes["http"]


def test_without_wasmedge_wasmtime_serves_sockets_too() -> None:
    report = report_on(f"(module {LISTEN} {START})", usable={"wasmtime": ""})
    assert {engine for engine, _ in runs(report)} == {"wasmtime"}
    assert report.choice.engine == "wasmtime"
    assert "limpet engine list" in report.choice.reason
    wasmedge = next(each for each in report.verdicts if each.engine == "wasmedge")
    assert "limpet engine install wasmedge" in wasmedge.note


def test_without_any_engine() -> None:
    report = report_on(f"(module {START})", usable={})
    assert not report.is_runnable
    assert "no engine can be used" in report.problems[0]


def test_all_problems_are_told() -> None:
    report = report_on(
        """(module
        (import "env" "printf" (func (param i32) (result i32)))
        (import "env" "puts" (func))
        (memory 1 2 shared) (memory i64 1))"""
    )
    text = "\n".join(report.problems)
    for part in ("threads", "memory64", "multi-memory", "env.printf", "env.puts", "_start"):
        assert part in text
    assert [each.name for each in report.contents.features] == [
        "threads",
        "memory64",
        "multi-memory",
    ]
    assert not any(each.is_on for each in report.contents.features)
    (group,) = report.contents.imports
    assert [need.name for need in group.missing] == ["printf (i32) -> (i32)", "puts () -> ()"]
    assert "threads" in report.verdicts[0].note


def test_proposals_that_are_off() -> None:
    report = report_on(f"(module (type (struct)) (tag) {START})")
    assert {each.name for each in report.contents.features} == {"garbage collection", "exceptions"}
    assert not report.is_runnable


def test_proposals_that_are_on() -> None:
    report = report_on(f"(module (type (func (param v128) (result i32 i32))) {START})")
    assert [each.name for each in report.contents.features] == ["simd", "multi-value"]
    assert report.is_runnable


def test_the_older_shape_of_sock_accept_is_told_apart() -> None:
    accept = f'(import "{WASI}" "sock_accept" (func (param i32 i32%s) (result i32)))'
    labels = [
        report_on(f"(module {accept % extra} {START})").contents.imports[0].label
        for extra in ("", " i32")
    ]
    assert labels == ["WasmEdge's sockets", "WASI preview 1"]


def test_memory_beyond_the_default_limit_needs_a_limit() -> None:
    report = report_on(f"(module {START})".replace(" 1)", " 1000 2000)"))
    assert not report.fits_memory
    assert report.is_runnable
    assert "resources.limits.memory to 67Mi" in report.advice[0]
    assert report.contents.memories[0].maximum_bytes == 2000 * 65536
    assert report_on(f"(module {START})".replace(" 1)", " 960)")).fits_memory


def test_native_code_is_found_and_dropped() -> None:
    module = parse_wat(f"(module {START})") + b"\0\x0b\x08wasmedge\1\2"
    report = report_on(module)
    assert [(each.section, each.size_bytes) for each in report.contents.native_code] == [
        ("wasmedge", 11)
    ]
    assert "dropped" in report.advice[0]
    assert report.is_runnable


def test_debug_information_is_weighed() -> None:
    report = report_on(parse_wat(f"(module {START})") + b"\0\x40\x06.debug" + bytes(57))
    assert report.advice == ()
    report = report_on(parse_wat(f"(module {START})") + b"\0\x40\x0b.debug_info" + bytes(52))
    assert "strip" in report.advice[0]


def test_a_command_component_runs_on_wasmtime_alone() -> None:
    report = report_on(f'(component (import "wasi:cli/stdout@0.2.0" (instance)) {RUN})')
    assert report.contents.kind == COMPONENT
    assert runs(report) == {("wasmtime", "http"), ("wasmtime", "command")}
    assert (report.choice.engine, report.trigger) == ("wasmtime", "http")
    wasmedge = next(each for each in report.verdicts if each.engine == "wasmedge")
    assert wasmedge.note == "it runs core modules only"


@pytest.mark.parametrize(
    ("function", "trigger"), [("start-listen", "socket"), ("start-connect", "http")]
)
def test_a_component_listens_if_it_imports_the_function(function: str, trigger: str) -> None:
    report = report_on(
        f"""(component (import "wasi:sockets/tcp@0.2.0" (instance
            (export "tcp-socket" (type $socket (sub resource)))
            (export "[method]tcp-socket.{function}" (func (param "self" (borrow $socket))))))
        {RUN})"""
    )
    assert (("wasmtime", "socket") in runs(report)) == (trigger == "socket")
    assert report.trigger == trigger
    assert [group.source for group in report.contents.imports] == ["wasi:sockets"]


@pytest.mark.parametrize(
    ("component", "parts"),
    [
        (f'(import "wasi:http/types@0.2.0" (instance)) {RUN}', ["wasi:http/types@0.2.0", "HTTP"]),
        (f'(import "wasi:cli/stdout@0.3.0" (instance)) {RUN}', ["of version 0.3.0"]),
        (f'(import "wasi:cli/stdout" (instance)) {RUN}', ["of version unknown"]),
        (f'(import "wasi:nn/graph@0.2.0" (instance)) {RUN}', ["proposal"]),
        (f'(import "acme:shop/cart@1.0.0" (instance)) {RUN}', ["acme:shop/cart@1.0.0", "compose"]),
        (f'(import "log" (func)) {RUN}', ["log - a function of its own"]),
        (f'(import "r" (type (sub resource))) {RUN}', ["a resource of its own"]),
        (RUN.replace("0.2.3", "0.3.0"), ["exports no wasi:cli/run", "wasi:cli/run@0.3.0"]),
        ("", ["exports no wasi:cli/run", "exports nothing"]),
        (
            '(instance $i) (export "wasi:http/incoming-handler@0.2.0" (instance $i))',
            ["handles HTTP requests itself", "CGI"],
        ),
        (f"(core module (memory 1 2 shared)) {RUN}", ["threads"]),
    ],
)
def test_components_that_can_not_run(component: str, parts: list[str]) -> None:
    report = report_on(f"(component {component})")
    assert not report.is_runnable
    assert report.choice is None
    text = "\n".join(report.problems)
    for part in parts:
        assert part in text


def test_another_name_for_a_type_asks_nothing_of_the_host() -> None:
    report = report_on(f'(component (type $t u32) (import "t" (type (eq $t))) {RUN})')
    assert report.is_runnable


def test_every_interface_that_is_offered_may_be_imported() -> None:
    assert len(OFFERED) > 20
    for path in OFFERED:
        assert extern_problem(Extern(f"{path}@0.2.6", "instance")) is None


@pytest.mark.parametrize(
    ("data", "kind", "description"),
    [
        (b"", OTHER, "an empty file"),
        (b"\0as", OTHER, "the first bytes of one"),
        (b"\x1f\x8b\x08\0", OTHER, "a gzip archive"),
        (b"\x7fELF\2\1\1 .wasmtime.engine", OTHER, "what `wasmtime compile` made of a module"),
        (b"\0asm\2\0\0\0", CORE_MODULE, "can't be read"),
        (b"\0asm\1\0\0\0\1", CORE_MODULE, "can't be read"),
        (b"\0asm\x0d\0\1\0\1", COMPONENT, "can't be read"),
        (b"\0asm\x0a\0\1\0", COMPONENT, "can't be read"),
    ],
)
def test_what_is_no_module(data: bytes, kind: str, description: str) -> None:
    report = report_on(data)
    assert report.contents.kind == kind
    assert description in report.contents.description
    assert len(report.problems) == 1
    assert not report.is_runnable


@pytest.mark.parametrize("name", ["growing", "multi_value_tables", "start_function", "echo"])
def test_guests_that_are_known_to_run(name: str) -> None:
    report = report_on(build_guest(name))
    assert report.problems == ()
    assert ("wasmtime", "command") in runs(report)


def test_mutated_files() -> None:
    done, runnable = fuzz_inspect.fuzz(seed=0, seconds=5, inputs=5000)
    assert done > 100
    assert 0 < runnable < done


SEEDS = st.sampled_from(fuzz_inspect.SEEDS)


@settings(max_examples=200)
@given(SEEDS, st.integers(0, 500))
def test_truncated_files(data: bytes, length: int) -> None:
    fuzz_inspect.check(data[:length])


@settings(max_examples=200)
@given(SEEDS, st.lists(st.tuples(st.integers(0, 500), st.integers(0, 7)), max_size=8))
def test_flipped_bits(data: bytes, flips: list[tuple[int, int]]) -> None:
    flipped = bytearray(data)
    for at, bit in flips:
        flipped[at % len(data)] ^= 1 << bit
    fuzz_inspect.check(bytes(flipped))


@settings(max_examples=200)
@given(SEEDS, SEEDS, st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_spliced_files(data: bytes, other: bytes, at: int, start: int, end: int) -> None:
    fuzz_inspect.check(data[:at] + other[start:end] + data[at:])


@settings(max_examples=200)
@given(st.sampled_from((b"", b"\0asm\1\0\0\0", b"\0asm\x0d\0\1\0")), st.binary(max_size=200))
def test_any_bytes(header: bytes, data: bytes) -> None:
    fuzz_inspect.check(header + data)
