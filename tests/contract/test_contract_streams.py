"""Standard streams, arguments and directories."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest
from contract_runs import Loader, invoke, run_and_read

from limpet.engine.protocol import OutcomeKind, Preopen
from limpet.wasi.streams import (
    BufferOutput,
    BytesInput,
    DescriptorInput,
    DescriptorOutput,
    NullInput,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_arguments_and_environment(load: Loader) -> None:
    _, output = run_and_read(
        load.c("show"), args=(b"name", b"", b"a b", b"\xff\xfe"), env=(b"A=1", b"B=", b"C=x=y")
    )
    assert output == b"[name][][a b][\xff\xfe]{A=1}{B=}{C=x=y}"


def test_many_arguments(load: Loader) -> None:
    env = tuple(b"NAME_%d=%s" % (number, b"v" * number) for number in range(500))
    _, output = run_and_read(load.c("show"), args=(b"name",), env=env)
    assert output == b"[name]" + b"".join(b"{%s}" % item for item in env)


def test_no_arguments_at_all(load: Loader) -> None:
    assert run_and_read(load.c("show"), args=(), env=())[1] == b""


def test_bytes_in_buffers_out(load: Loader) -> None:
    data = os.urandom(70_000)
    stderr = BufferOutput(100)
    outcome, output = run_and_read(load.c("cat"), stdin=BytesInput(data), stderr=stderr)
    assert (outcome.kind, outcome.exit_code, output) == (OutcomeKind.EXIT, 0, data)
    assert stderr.getvalue() == b"70000"


def test_null_input(load: Loader) -> None:
    assert run_and_read(load.c("cat"), stdin=NullInput())[1] == b""


@pytest.mark.parametrize("is_blocking", [True, False])
def test_pipes_both_ways(load: Loader, *, is_blocking: bool) -> None:
    data = os.urandom(1_000_000)
    input_reader, input_writer = os.pipe()
    output_reader, output_writer = os.pipe()
    for end in (input_reader, output_writer):
        os.set_blocking(end, is_blocking)
    received = bytearray()

    def feed() -> None:
        with open(input_writer, "wb") as file:
            file.write(data)

    def drain() -> None:
        with open(output_reader, "rb") as file:
            received.extend(file.read())

    threads = [threading.Thread(target=feed), threading.Thread(target=drain)]
    for thread in threads:
        thread.start()
    outcome = load.c("cat").run(
        invoke(
            stdin=DescriptorInput(input_reader),
            stdout=DescriptorOutput(output_writer),
            deadline_seconds=60,
        )
    )
    os.close(output_writer)
    os.close(input_reader)
    for thread in threads:
        thread.join()
    assert outcome.kind is OutcomeKind.EXIT
    assert bytes(received) == data


def test_files_as_streams(load: Loader, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"from a file")
    with open(tmp_path / "in", "rb") as source, open(tmp_path / "out", "wb") as target:
        load.c("cat").run(
            invoke(stdin=DescriptorInput(source.fileno()), stdout=DescriptorOutput(target.fileno()))
        )
    assert (tmp_path / "out").read_bytes() == b"from a file"


def test_a_reader_that_is_gone(load: Loader) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    outcome = load.c("cat").run(invoke(stdin=BytesInput(b"x"), stdout=DescriptorOutput(writer)))
    os.close(writer)
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.EXIT, 1)


def test_a_terminal_is_one(load: Loader) -> None:
    program = load.c("terminals")
    host, guest = os.openpty()
    try:
        outcome = program.run(invoke(stdin=DescriptorInput(guest), stdout=DescriptorOutput(guest)))
        assert outcome.exit_code == 3
        assert program.run(invoke()).exit_code == 0
    finally:
        os.close(host)
        os.close(guest)


def test_preopens(load: Loader, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    descriptors = [
        os.open(tmp_path / name, os.O_RDONLY | os.O_DIRECTORY) for name in ("one", "two")
    ]
    preopens = (Preopen(b"/", descriptors[0]), Preopen(b"/fixed", descriptors[1], True))
    _, output = run_and_read(
        load.c("open"),
        args=(b"guest", b"/file", b"/fixed/file", b"/fixed/new", b"/absent/x"),
        preopens=preopens,
    )
    assert output.decode().splitlines() == [
        "/file: one",
        "written",
        "/fixed/file: two",
        "/fixed/file: Operation not permitted",
        "/fixed/new: No such file or directory",
        "/fixed/new: Operation not permitted",
        "/absent/x: No such file or directory",
        "/absent/x: No such file or directory",
    ]
    assert (tmp_path / "one" / "file").read_text() == "new"
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["file"]
    for descriptor in descriptors:
        os.fstat(descriptor)  # still ours, whatever the guest closed
        os.close(descriptor)


def test_nothing_is_open_but_what_was_given(load: Loader) -> None:
    _, output = run_and_read(load.c("open"), args=(b"guest", b"/etc/passwd", b"x"))
    assert b"root:" not in output
    assert output.count(b"written") == 0


def test_opening_a_fifo_does_not_wait(load: Loader, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    outcome, _ = run_and_read(
        load.c("open"),
        args=(b"guest", b"/fifo"),
        preopens=(Preopen(b"/", descriptor),),
        deadline_seconds=30,
    )
    os.close(descriptor)
    assert outcome.kind is OutcomeKind.EXIT
