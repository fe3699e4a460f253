"""Quantities in fields: Kubernetes allows both `"64Mi"` and a bare number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.manifest.problems import shown, type_name
from limpet.manifest.quantity import (
    QuantityError,
    format_bytes,
    format_cpu,
    parse_bytes,
    parse_cpu,
)

if TYPE_CHECKING:
    from limpet.manifest.fields import Fields

VOLUME_MINIMUM_BYTES = 16 << 20
VOLUME_MAXIMUM_BYTES = 1 << 40


def read_quantity(fields: Fields, name: str, *, required: bool = False) -> str | None:
    """The quantity's text; None when it is absent or, reported, something else."""
    value = fields.raw(name, required=required)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        fields.problem(f"must be a quantity like 1 or 500m, not {type_name(value)}", name)
        return None
    return shown(value)


def read_bytes(
    fields: Fields,
    name: str,
    *,
    minimum: int,
    maximum: int,
    required: bool = False,
    why_minimum: str = "",
) -> int | None:
    """Bytes within bounds; `why_minimum` is told to who asks for less."""
    text = read_quantity(fields, name, required=required)
    if text is None:
        return None
    try:
        count = parse_bytes(text)
    except QuantityError as error:
        fields.problem(str(error), name)
        return None
    if minimum <= count <= maximum:
        return count
    hint = f": {why_minimum}" if why_minimum and count < minimum else ""
    if text.endswith("m"):
        hint = "; m means thousandths, write Mi"
    bounds = f"{format_bytes(minimum)} and {format_bytes(maximum)}"
    fields.problem(f"{shown(text)} is not between {bounds}{hint}", name)
    return None


def read_cpu(fields: Fields, name: str, *, minimum: float, maximum: float) -> float | None:
    text = read_quantity(fields, name)
    if text is None:
        return None
    try:
        cores = parse_cpu(text)
    except QuantityError as error:
        fields.problem(str(error), name)
        return None
    if minimum <= cores <= maximum:
        return cores
    bounds = f"{format_cpu(minimum)} and {format_cpu(maximum)}"
    fields.problem(f"{shown(text)} is not between {bounds} cores", name)
    return None


def read_volume_bytes(fields: Fields, name: str, *, required: bool = False) -> int | None:
    """The size of a volume on a device, which holds a file system with a journal."""
    return read_bytes(
        fields,
        name,
        minimum=VOLUME_MINIMUM_BYTES,
        maximum=VOLUME_MAXIMUM_BYTES,
        required=required,
        why_minimum="a volume's file system needs room for its journal",
    )
