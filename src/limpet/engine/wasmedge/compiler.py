"""Compiles ahead of time.

WasmEdge's compiler writes an object file, has its own linker make a shared object of it, reads that and
writes the result: all beside each other, by path. So it needs a directory that it can write to.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from limpet.engine.wasmedge.binding import Binding, Bytes
from limpet.engine.wasmedge.settings import configuration
from limpet.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limpet.engine.protocol import CompileOptions

_TEMPORARY_DIRECTORIES = ("/tmp", "/var/tmp")  # noqa: S108 - a directory of our own is made there
_OUTPUT = "artifact.wasm"


class CompilerUnavailableError(UnavailableError):
    """This process can't compile, whatever the module."""


def compile_ahead(binding: Binding, module: bytes, options: CompileOptions) -> tuple[int, bytes]:
    """The result, and when it is 0 the module with its machine code in a custom section.

    Raises `CompilerUnavailableError`.
    """
    with configuration(binding, options) as settings, _scratch_directory() as directory:
        compiler = binding.compiler_create(settings)
        if not compiler:
            raise CompilerUnavailableError(
                f"this build of WasmEdge {binding.version} can't compile: choose to interpret, or "
                "install Debian's build (`limpet engine install wasmedge`)"
            )
        try:
            path = os.path.join(directory, _OUTPUT)
            result: int = binding.compiler_compile_from_bytes(
                compiler, Bytes(module), os.fsencode(path)
            )
            return (result, b"") if result else (result, _read(path))
        finally:
            binding.compiler_delete(compiler)


def _read(path: str) -> bytes:
    """What the compiler wrote. It takes no failure to write for one."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise CompilerUnavailableError(f"the compiler left no artifact: {error}") from error


@contextmanager
def _scratch_directory() -> Iterator[str]:
    """A directory for the compiler's files, which are removed afterwards, in $TMPDIR if that is set.

    The compiler makes paths absolute: it has to lie below this process's root.
    """
    candidates = (os.environ.get("TMPDIR", ""), *_TEMPORARY_DIRECTORIES)
    parent = next((each for each in candidates if os.path.isdir(each)), None)
    if parent is None:
        raise CompilerUnavailableError(
            "WasmEdge's compiler needs a directory for temporary files: name one with TMPDIR"
        )
    path = os.path.join(parent, f"limpet-{os.urandom(8).hex()}")
    os.mkdir(path, 0o700)
    try:
        yield path
    finally:
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)
