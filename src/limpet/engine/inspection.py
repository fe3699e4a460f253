"""Decides whether a module can run here, and says in plain words why not."""

from __future__ import annotations

from limpet.engine.binary import (
    KIND_FUNCTION,
    KIND_MEMORY,
    MAGIC,
    VERSION_CORE,
    FunctionType,
    Import,
    Shape,
    read_shape,
)
from limpet.engine.protocol import ModuleError, ModuleInfo
from limpet.wasi import abi

ENTRY_POINT = "_start"
MEMORY_EXPORT = "memory"
_WASI_TYPES = {"i": "i32", "j": "i64", "s": "i64"}
# Imports that work without a memory to point into.
_WITHOUT_MEMORY = frozenset({"proc_exit", "sched_yield", "proc_raise", "fd_close"})
_MAX_LISTED = 20

# First bytes of what people upload by mistake, and what to say then.
_LOOKALIKES = (
    (b"\x7fELF", "a native Linux program (ELF)", "build it for the target wasm32-wasip1"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first (gunzip, tar -xzf)"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first (zstd -d)"),
    (b"MZ", "a Windows program", "build it for the target wasm32-wasip1"),
    (b"BC\xc0\xde", "LLVM bitcode", "link it into a module (wasm-ld, clang)"),
    (b"!<arch>", "a static library", "link it into a module (wasm-ld, clang)"),
    (b"#!", "a script", "give the module that runs it instead"),
)


def inspect_module(module: bytes) -> ModuleInfo:
    """What there is to know of a module before compiling it.

    Raises `ModuleError` when it is no core WebAssembly module that exports `_start`, imports only
    WASI preview 1, and needs no feature that is off. The code itself is not looked at: the engine
    validates it.
    """
    _check_header(module)
    shape = read_shape(module)
    _check_memories(shape)
    _check_imports(shape.imports)
    _check_exports(shape)
    return ModuleInfo(
        imports=tuple(dict.fromkeys(f"{each.module}.{each.name}" for each in shape.imports)),
        exports=tuple(shape.exports),
        memory_bytes=sum(memory.minimum_bytes for memory in shape.memories),
    )


def _check_header(module: bytes) -> None:
    if not module:
        raise ModuleError("the module is empty: 0 bytes. Copy or build it again")
    if not module.startswith(MAGIC):
        what, next_step = _describe(module)
        raise ModuleError(f"this is not a WebAssembly module but {what}: {next_step}")
    version = module[4:8]
    if version == VERSION_CORE:
        return
    if len(version) < len(VERSION_CORE):
        raise ModuleError("the module is truncated: its header is cut. Copy or download it again")
    layer = int.from_bytes(version[2:], "little")
    if layer == 1:
        raise ModuleError(
            "this is a WebAssembly component, and a core module is needed: build for "
            "wasm32-wasip1 (Rust: --target wasm32-wasip1; C: wasi-sdk's clang without wasip2; "
            "TinyGo: -target=wasip1), or skip the step that runs `wasm-tools component new`"
        )
    number = int.from_bytes(version, "little")
    raise ModuleError(f"WebAssembly version {number} is unknown: version 1 is the one there is")


def _describe(data: bytes) -> tuple[str, str]:
    for magic, what, next_step in _LOOKALIKES:
        if data.startswith(magic):
            return what, next_step
    if MAGIC.startswith(data[:4]):
        return "the first bytes of one", "copy or download it again"
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page", "the download address shows a page; find the file's own address"
    if head.startswith((b"(module", b"(component", b";;", b"(;")):
        return "WebAssembly text", "convert it with `wasm-tools parse` or `wat2wasm`"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer", "fetch the file itself with `git lfs pull`"
    if head.startswith((b"{", b"[")):
        return "JSON", "give the .wasm file itself"
    if head and all(9 <= byte < 127 for byte in head):
        return "text", "give the .wasm file itself"
    return f"something that starts with {data[:4].hex(' ')}", "give a .wasm file"


def _check_memories(shape: Shape) -> None:
    for memory in shape.memories:
        if memory.is_shared:
            raise ModuleError(
                "the module needs shared memory (threads), which is off: build it without "
                "-pthread / for wasm32-wasip1 rather than wasm32-wasip1-threads"
            )
        if memory.is_64:
            raise ModuleError(
                "the module uses 64-bit memory (memory64), which is off: build it for wasm32"
            )
    if len(shape.memories) > 1:
        raise ModuleError(
            f"the module has {len(shape.memories)} memories (multi-memory), which is off: "
            "build it with one"
        )


def _check_imports(imports: list[Import]) -> None:
    problems = [
        f"  {each} - {reason}" for each in imports if (reason := _import_problem(each)) is not None
    ]
    if not problems:
        return
    if len(problems) > _MAX_LISTED:
        left = len(problems) - _MAX_LISTED
        problems = [*problems[:_MAX_LISTED], f"  and {left} more"]
    raise ModuleError(
        "the module imports what Limpet does not offer; it offers WASI preview 1 "
        f"({abi.MODULE}):\n" + "\n".join(problems)
    )


def _import_problem(each: Import) -> str | None:
    if each.module == abi.MODULE:
        parameters = abi.PARAMETERS.get(each.name)
        if parameters is None:
            return "preview 1 has no function of this name"
        if each.type is None:
            return "preview 1 has only functions"
        results = () if each.name in abi.NO_RESULT else ("i32",)
        expected = FunctionType(tuple(_WASI_TYPES[code] for code in parameters), results)
        return None if each.type == expected else f"preview 1 declares it {expected}"
    if each.module == "wasi_unstable":
        return "from before preview 1: build it again with a current toolchain"
    if each.module.startswith("wasi:"):
        return "of WASI 0.2 or later: build for wasm32-wasip1"
    if each.module == "wasi":
        return "of wasi-threads: build for wasm32-wasip1"
    if each.module == "env" and each.kind == KIND_MEMORY:
        return "the module must define its memory: link without --import-memory"
    if each.module == "env":
        return (
            "not found at link time: link the library that defines it, "
            "or drop --allow-undefined to see who needs it"
        )
    if each.module.startswith(("wbg", "__wbindgen", "gojs", "go")):
        return "made for a browser: build for wasm32-wasip1"
    return "unknown"


def _check_exports(shape: Shape) -> None:
    entry = shape.exports.get(ENTRY_POINT)
    if entry is None:
        if "_initialize" in shape.exports:
            raise ModuleError(
                "the module is a library (it exports _initialize), not a program: build a command, "
                "with a main function (clang: without -mexec-model=reactor)"
            )
        found = ", ".join(list(shape.exports)[:_MAX_LISTED]) or "nothing"
        raise ModuleError(
            f"the module exports no {ENTRY_POINT} function, where a program starts (it exports "
            f"{found}): build a program with a main function, for wasm32-wasip1"
        )
    kind, index = entry
    if kind != KIND_FUNCTION or shape.function_type(index) not in {FunctionType((), ()), None}:
        raise ModuleError(
            f"the module's {ENTRY_POINT} is not a function without parameters and results: "
            "build it with a WASI toolchain, for wasm32-wasip1"
        )
    needs_memory = any(each.name not in _WITHOUT_MEMORY for each in shape.imports)
    memory = shape.exports.get(MEMORY_EXPORT)
    if needs_memory and (memory is None or memory[0] != KIND_MEMORY):
        raise ModuleError(
            f"the module exports no memory named {MEMORY_EXPORT!r}, through which WASI passes "
            "everything: export it (wasm-ld does so by default; add --export-memory)"
        )
