"""Changes a module's sections before WasmEdge sees them.

Source: the WebAssembly core specification 2.0, section 5.5 "Modules".
"""

from __future__ import annotations

from limpet.engine.binary import CUSTOM_SECTION, HEADER_BYTES, Reader, damaged, read_shape
from limpet.engine.protocol import ModuleError
from limpet.engine.wasmedge.settings import TABLES

_TABLE_SECTION = 4
_HAS_MAXIMUM = 1


def strip_custom_sections(module: bytes) -> bytes:
    """The module without any custom section.

    One named `wasmedge` holds native code, which WasmEdge would run in the module's stead: it is to
    come from this node's compiler and from nowhere else. The others go too, for nothing here reads
    them, and no two readers need to agree on what a section's name is.
    """
    kept = [section for section in read_shape(module).sections if section.id != CUSTOM_SECTION]
    return module[:HEADER_BYTES] + b"".join(module[each.start : each.end] for each in kept)


def limit_tables(module: bytes, elements: int) -> bytes:
    """The module with no table's maximum beyond `elements`: WasmEdge has no limit of its own.

    Raises `ModuleError` when a table starts larger, or when there are more than `TABLES`.
    """
    reader = Reader(module, HEADER_BYTES, len(module))
    while reader.position < reader.end:
        start, section = reader.position, reader.byte()
        size = reader.unsigned()
        if size > reader.end - reader.position:
            raise ModuleError(damaged(f"a section runs past its end at byte {start}"))
        if section == _TABLE_SECTION:
            body = _limited(Reader(module, reader.position, reader.position + size), elements)
            section_bytes = bytes([_TABLE_SECTION]) + _unsigned(len(body)) + body
            return module[:start] + section_bytes + module[reader.position + size :]
        reader.position += size
    return module


def _limited(reader: Reader, elements: int) -> bytes:
    """The content of a table section, with its maxima lowered."""
    count = reader.unsigned()
    if count > TABLES:
        raise ModuleError(f"the module has {count} tables and the limit is {TABLES}")
    body = _unsigned(count)
    for _ in range(count):
        kind, flags, minimum = reader.byte(), reader.byte(), reader.unsigned()
        if flags & ~_HAS_MAXIMUM:
            raise ModuleError(
                "the module has a table of a WebAssembly proposal that is off: build it for plain "
                "wasm32-wasip1"
            )
        maximum = reader.unsigned() if flags & _HAS_MAXIMUM else elements
        if minimum > elements:
            raise ModuleError(
                f"the module starts with a table of {minimum} elements and the limit is "
                f"{elements}: build it with fewer functions whose address is taken"
            )
        body += bytes([kind, _HAS_MAXIMUM])
        body += _unsigned(minimum) + _unsigned(min(maximum, elements))
    return body


def _unsigned(value: int) -> bytes:
    """LEB128 (section 5.2.2 "Integers")."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
