"""Decides whether a module can run here, and says in plain words why not."""

from __future__ import annotations

from collections import Counter

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
# Imports that work without a memory to point into.
_WITHOUT_MEMORY = frozenset({"proc_exit", "sched_yield", "proc_raise", "fd_close"})
_MAX_LISTED = 20

# First bytes of what people upload by mistake, and what to say then.
_ELF = b"\x7fELF"
_WASMTIME_SECTION = b".wasmtime.engine"
_LOOKALIKES = (
    (_ELF, "a native Linux program (ELF)", "build it for the target wasm32-wasip1"),
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
    WASI preview 1 and WasmEdge's socket extension, and needs no feature that is off. The code itself
    is not looked at: the engine validates it.
    """
    check_header(module)
    shape = read_shape(module)
    problems = find_problems(shape)
    if problems:
        raise ModuleError(problems[0])
    return ModuleInfo(
        imports=tuple(dict.fromkeys(f"{each.module}.{each.name}" for each in shape.imports)),
        exports=tuple(shape.exports),
        memory_bytes=sum(memory.minimum_bytes for memory in shape.memories),
    )


def find_problems(shape: Shape) -> list[str]:
    """What keeps a core module from running here, in plain words; empty when nothing does."""
    problems = find_feature_problems(shape)
    if None in shape.types:
        # Types behind it are unknown, so that what would be said of imports could be wrong.
        return problems
    return [*problems, *_import_problems(shape.imports), *_export_problems(shape)]


def check_header(module: bytes) -> None:
    """Raise `ModuleError` for what is no core module, with what it is instead."""
    if not module:
        raise ModuleError("the module is empty: 0 bytes. Copy or build it again")
    if not module.startswith(MAGIC):
        what, next_step = describe_lookalike(module)
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


def describe_lookalike(data: bytes) -> tuple[str, str]:
    """What this file is that is no WebAssembly, and what to do with it."""
    if data.startswith(_ELF) and _WASMTIME_SECTION in data:
        return (
            "what `wasmtime compile` made of a module (.cwasm)",
            "give the .wasm file that it was made of; a node compiles for itself",
        )
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


def find_feature_problems(shape: Shape) -> list[str]:
    """What a core module uses of WebAssembly that is off, in plain words."""
    problems = []
    if None in shape.types:
        problems.append(
            "the module uses types of the garbage collection proposal, which is off: build it "
            "for wasm32-wasip1 with a language that brings its own memory management"
        )
    if any(memory.is_shared for memory in shape.memories):
        problems.append(
            "the module needs shared memory (threads), which is off: build it without "
            "-pthread / for wasm32-wasip1 rather than wasm32-wasip1-threads"
        )
    if any(memory.is_64 for memory in shape.memories):
        problems.append(
            "the module uses 64-bit memory (memory64), which is off: build it for wasm32"
        )
    if len(shape.memories) > 1:
        problems.append(
            f"the module has {len(shape.memories)} memories (multi-memory), which is off: "
            "build it with one"
        )
    if any(not memory.has_usual_pages for memory in shape.memories):
        problems.append(
            "the module has memory pages of its own size (custom page sizes), which is off: "
            "build it with pages of 64 KiB"
        )
    if shape.has_tags:
        problems.append(
            "the module throws or catches WebAssembly exceptions, which are off: build it without "
            "(clang: without -fwasm-exceptions; Rust: panic=abort)"
        )
    return problems


def _import_problems(imports: list[Import]) -> list[str]:
    problems = [
        f"{each} - {reason}" for each in imports if (reason := import_problem(each)) is not None
    ]
    shapes = {(each.module, each.name, each.type) for each in imports}
    times = Counter(shape[:2] for shape in shapes)
    problems += [
        f"{module}.{name} - in two shapes: build all of it for one version of the extension"
        for module, name in sorted(name for name, count in times.items() if count > 1)
        if not problems
    ]
    if not problems:
        return []
    return [
        "the module imports what Limpet does not offer; it offers WASI preview 1 "
        f"and WasmEdge's socket extension ({abi.MODULE}):\n" + indent_lines(problems)
    ]


def import_problem(each: Import) -> str | None:
    """Why this import is not offered, and what would help; None when it is."""
    if each.module == abi.MODULE:
        return _wasi_problem(each)
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


def _wasi_problem(each: Import) -> str | None:
    shapes = [_declared_type(key) for key in abi.candidates(each.name)]
    if not shapes:
        return "preview 1 has no function of this name, nor has WasmEdge's socket extension"
    if each.type is None:
        return "preview 1 has only functions"
    if each.type in shapes:
        return None
    author = "preview 1" if each.name in abi.PREVIEW1 else "the socket extension"
    return f"{author} declares it {' or '.join(map(str, shapes))}"


def _declared_type(key: str) -> FunctionType:
    return FunctionType(abi.parameter_types(key), () if key in abi.NO_RESULT else ("i32",))


def _export_problems(shape: Shape) -> list[str]:
    problems = []
    entry = shape.exports.get(ENTRY_POINT)
    if entry is None:
        problems.append(_missing_entry_point(shape))
    elif entry[0] != KIND_FUNCTION or not _is_plain(shape.function_type(entry[1])):
        problems.append(
            f"the module's {ENTRY_POINT} is not a function without parameters and results: "
            "build it with a WASI toolchain, for wasm32-wasip1"
        )
    needs_memory = any(each.name not in _WITHOUT_MEMORY for each in shape.imports)
    memory = shape.exports.get(MEMORY_EXPORT)
    if needs_memory and (memory is None or memory[0] != KIND_MEMORY):
        problems.append(
            f"the module exports no memory named {MEMORY_EXPORT!r}, through which WASI passes "
            "everything: export it (wasm-ld does so by default; add --export-memory)"
        )
    return problems


def _missing_entry_point(shape: Shape) -> str:
    if "_initialize" in shape.exports:
        return (
            "the module is a library (it exports _initialize), not a program: build a command, "
            "with a main function (clang: without -mexec-model=reactor)"
        )
    found = ", ".join(cut_list(list(shape.exports))) or "nothing"
    return (
        f"the module exports no {ENTRY_POINT} function, where a program starts (it exports "
        f"{found}): build a program with a main function, for wasm32-wasip1"
    )


def cut_list(items: list[str]) -> list[str]:
    """As many as people read, and how many are left."""
    left = len(items) - _MAX_LISTED
    return [*items[:_MAX_LISTED], f"and {left} more"] if left > 0 else items


def indent_lines(items: list[str]) -> str:
    """One a line, cut short."""
    return "\n".join(f"  {item}" for item in cut_list(items))


def _is_plain(signature: FunctionType | None) -> bool:
    """Without parameters and results, as far as the shape tells."""
    return signature in {FunctionType((), ()), None}
