"""What is kept of a compiled module: a header of ours, and the module that WasmEdge loads.

The header says what made it, so that nothing else is loaded, and what loading needs to know without
reading the module again. That an artifact is the node's own is for the node to see to: machine code is
not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct

from limpet.engine.protocol import CompileOptions, ModuleError
from limpet.wasi.abi import PARAMETERS

_MAGIC = b"limpetWE"
# Magic, format, flags, length of the key, length of the imports, initial memory, length of the module.
_HEADER = Struct("<8sBBHIQQ")
_FORMAT = 1
_METERED, _INTERPRETED = 1, 2


@dataclass(frozen=True, slots=True)
class Artifact:
    """`key` is the engine's. `imports`: name -> key of `limpet.wasi.abi.PARAMETERS`.

    `module` is a module without custom sections, but for the one that our compiler adds.
    """

    key: str
    options: CompileOptions
    imports: dict[str, str]
    memory_bytes: int
    module: bytes = field(repr=False)

    def pack(self) -> bytes:
        key = self.key.encode()
        imports = "\n".join(f"{name} {meaning}" for name, meaning in self.imports.items()).encode()
        flags = _METERED * self.options.is_metered | _INTERPRETED * self.options.is_interpreted
        header = _HEADER.pack(
            _MAGIC, _FORMAT, flags, len(key), len(imports), self.memory_bytes, len(self.module)
        )
        return header + key + imports + self.module


def parse_artifact(content: bytes, key: str) -> Artifact:
    """The artifact that these bytes are. Raises `ModuleError` when they are none of this engine's."""
    again = "compile the module again"
    if len(content) < _HEADER.size:
        raise ModuleError(f"this is not an artifact of this engine (it has no header): {again}")
    magic, number, flags, key_length, imports_length, memory_bytes, length = _HEADER.unpack_from(
        content
    )
    key_end = _HEADER.size + key_length
    imports_end = key_end + imports_length
    if magic != _MAGIC or number != _FORMAT:
        raise ModuleError(f"this is not an artifact of this engine (another header): {again}")
    if len(content) != imports_end + length:
        raise ModuleError(f"the artifact is {len(content)} bytes long, not as it says: {again}")
    found = content[_HEADER.size : key_end].decode(errors="replace")
    if found != key:
        raise ModuleError(f"this is an artifact of {found}, and this engine is {key}: {again}")
    lines = content[key_end:imports_end].decode(errors="replace").splitlines()
    imports = dict([line.partition(" ")[::2] for line in lines])
    unknown = [each for each in imports.values() if each not in PARAMETERS]
    if unknown:
        raise ModuleError(f"the artifact imports {unknown[0]!r}, which is unknown here: {again}")
    return Artifact(
        key,
        CompileOptions(
            is_metered=bool(flags & _METERED), is_interpreted=bool(flags & _INTERPRETED)
        ),
        imports,
        memory_bytes,
        content[imports_end:],
    )
