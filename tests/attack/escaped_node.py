"""A node whose engine can be escaped: `limpet.node` with three differences, for the tests of its walls.

A module with a custom section named `escape` is not run as a guest. The section says when its native code
runs: `program` in the worker, in the place of the guest; `compiler` while the module is compiled. What runs
is a function of `natives`, named by the request or the command's arguments, with the whole of Python and
`ctypes`: what somebody has who found a hole in the engine. And names below `test` are answered for as
their owners might answer: see `_ANSWERS`. Guests run on the loop's thread however slow they are: native
code has the control socket to itself then. Agent, zygote and walls are the real ones.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import parse_qs

import escaped_roles

import limpet.engine
import limpet.trigger.http
from limpet.engine.protocol import DEFAULT_OPTIONS, ModuleError, ModuleInfo, Outcome, OutcomeKind
from limpet.node.__main__ import main

if TYPE_CHECKING:
    from limpet.engine.protocol import CompileOptions, Engine, Invocation, Limits, Program

SLOW_SECONDS = 40
_ANSWERS = {
    "loopback.test": ["127.0.0.1"],
    "mapped.test": ["::ffff:127.0.0.1"],
    "metadata.test": ["169.254.169.254"],
    "both.test": ["127.0.0.1", "::1"],
}
_PREAMBLE = b"\0asm\1\0\0\0"
_SECTION = b"\6escape"
_ARTIFACT = b"escaped"


class EscapedEngine:
    """The real engine, but for modules that escape it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name = engine.name
        self.version = engine.version

    def artifact_key(self) -> str:
        return self._engine.artifact_key()

    def compile_module(
        self, module: bytes, options: CompileOptions = DEFAULT_OPTIONS
    ) -> tuple[bytes, ModuleInfo]:
        task = _read_task(module)
        if task is None:
            return self._engine.compile_module(module, options)
        if task["at"] == "program":
            return _ARTIFACT, ModuleInfo()
        raise ModuleError(json.dumps(_run(task["run"], task["arguments"])))

    def load(self, artifact: int, *, limits: Limits) -> Program:
        if os.pread(artifact, len(_ARTIFACT), 0) == _ARTIFACT:
            return EscapedProgram()
        return self._engine.load(artifact, limits=limits)


class EscapedProgram:
    """Runs what a request's query or a command's first argument names."""

    def run(self, invocation: Invocation) -> Outcome:
        import natives

        natives.preopens = [preopen.descriptor for preopen in invocation.preopens]
        environment = dict(item.partition(b"=")[::2] for item in invocation.env)
        if b"QUERY_STRING" not in environment:
            name, arguments = (item.decode() for item in invocation.args[1:3])
            os.write(1, json.dumps(_run(name, json.loads(arguments))).encode() + b"\n")
            return Outcome(OutcomeKind.EXIT)
        [name] = parse_qs(environment[b"QUERY_STRING"].decode())["run"]
        body = b""
        while chunk := invocation.stdin.read(1 << 16, None):
            body += chunk
        answer = json.dumps(_run(name, json.loads(body or b"{}")))
        invocation.stdout.write(b"Content-Type: application/json\n\n" + answer.encode(), None)
        return Outcome(OutcomeKind.EXIT)

    def interrupt(self) -> None:
        os._exit(0)


def module(at: str = "program", run: str = "", **arguments: Any) -> bytes:
    """Return a module that escapes."""
    task = json.dumps({"at": at, "run": run, "arguments": arguments}).encode()
    content = _SECTION + task
    return _PREAMBLE + b"\0" + _uleb(len(content)) + content


def _uleb(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _read_task(module: bytes) -> dict[str, Any] | None:
    found = module.find(_SECTION, 0, 32)
    return json.loads(module[found + len(_SECTION) :]) if found >= 0 else None


def _run(name: str, arguments: dict[str, Any]) -> object:
    import natives

    return natives.run(name, arguments)


def _open_escaped(name: str, *, library: str | None = None) -> EscapedEngine:
    import natives  # noqa: F401 - here, in the zygote: behind the walls there are no files

    return EscapedEngine(_open_engine(name, library=library))


def _look_up(host: str, port: int, *arguments: Any, **named: Any) -> list[Any]:
    if host.endswith(".slow.test"):
        time.sleep(SLOW_SECONDS)
        raise socket.gaierror(socket.EAI_AGAIN, "nobody answers")
    addresses = _ANSWERS.get(host, [host])
    return [
        found for each in addresses for found in _really_look_up(each, port, *arguments, **named)
    ]


def _lack_encryption() -> None:
    """Answer as a kernel does that was built without fscrypt."""
    from limpet.linux import fscrypt

    def refuse(*_arguments: object, **_named: object) -> NoReturn:
        raise OSError(errno.EOPNOTSUPP, "this kernel can't encrypt files")

    fscrypt.add_key = refuse


if __name__ == "__main__":
    if "LIMPET_TEST_WITHOUT_FSCRYPT" in os.environ:
        del os.environ["LIMPET_TEST_WITHOUT_FSCRYPT"]
        _lack_encryption()
    if orders := os.environ.pop("LIMPET_TEST_ESCAPES", None):
        escaped_roles.escape(orders)
    limpet.trigger.http._SLOW_SECONDS = float("inf")
    _really_look_up = socket.getaddrinfo
    socket.getaddrinfo = _look_up
    _open_engine = limpet.engine.open_engine
    limpet.engine.open_engine = _open_escaped
    sys.exit(main(sys.argv[1:]))
