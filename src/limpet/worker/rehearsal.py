"""A request without a client: what zygote and spare worker go through before there is anything to do.

The zygote rehearses so that its forks inherit warm code and filled caches (the interpreter rewrites code as
it warms up, PEP 659, and a page that is rewritten after the fork is no longer shared). A spare rehearses
because the first time in a process copies pages, and a cold start has no time for that.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from limpet.engine.protocol import Invocation, Limits
from limpet.trigger.http import rehearse_request
from limpet.wasi.streams import BufferOutput, BytesInput
from limpet.wasi.strings import Strings

if TYPE_CHECKING:
    from limpet.engine.protocol import Engine

# A guest that asks what every CGI program asks. Its text, without the long module name:
#   (module
#     (import "..." "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
#     (import "..." "environ_get" (func $get (param i32 i32) (result i32)))
#     (import "..." "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
#     (import "..." "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
#     (import "..." "proc_exit" (func $exit (param i32)))
#     (memory (export "memory") 1)
#     (data (i32.const 0) "\00\10\00\00\08\00\00\00")
#     (func (export "_start")
#       (drop (call $sizes (i32.const 8) (i32.const 12)))
#       (drop (call $get (i32.const 16) (i32.const 1024)))
#       (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
#       (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
_GUEST = bytes.fromhex(
    "0061736d0100000001160460027f7f017f60047f7f7f7f017f60017f0060000002b7010516776173695f736e"
    "617073686f745f707265766965773111656e7669726f6e5f73697a65735f676574000016776173695f736e61"
    "7073686f745f70726576696577310b656e7669726f6e5f676574000016776173695f736e617073686f745f70"
    "726576696577310766645f72656164000116776173695f736e617073686f745f707265766965773108666"
    "45f7772697465000116776173695f736e617073686f745f70726576696577310970726f635f6578697400020302"
    "01030503010001071302066d656d6f72790200065f737461727400050a290127004108410c10001a41104180"
    "0810011a410041004101410810021a410141004101410810031a0b0b0e010041000b08001000000800000000"
    "27046e616d65012005000573697a6573010367657402047265616403057772697465040465786974"
)
_ENVIRONMENT = (b"REQUEST_METHOD=GET", b"PATH_INFO=/", b"QUERY_STRING=", b"HTTP_HOST=localhost")


class Rehearsal:
    """Loads and runs a small guest, and takes a request from bytes to bytes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._artifact = _compile(engine)

    def run(self) -> None:
        """Go through everything once, but for the deadline's timer: it comes with a thread."""
        program = self._engine.load(self._artifact, limits=Limits(memory_bytes=1 << 20))
        output = BufferOutput(1 << 10)
        program.run(
            Invocation(
                Strings([b"rehearsal"]),
                Strings(_ENVIRONMENT),
                BytesInput(b"request"),
                output,
                output,
            )
        )
        rehearse_request()


def _compile(engine: Engine) -> int:
    """Compile the guest in a child and return the artifact's descriptor.

    A process that has compiled must not fork compilers later: the compiler's threads do not survive it.
    """
    artifact = os.memfd_create("limpet-rehearsal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.write(artifact, engine.compile_module(_GUEST)[0])
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise RuntimeError(f"the engine can't compile the rehearsal's guest: wait status {status}")
    # Every worker inherits it, and the next spare, of another app, executes it.
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(artifact, fcntl.F_ADD_SEALS, seals)
    return artifact
