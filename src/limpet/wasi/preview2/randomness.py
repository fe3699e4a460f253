"""`wasi:random`. What may be insecure is the kernel's good randomness as well: it is fast enough."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from limpet.wasi.endings import GuestTrap
from limpet.wasi.preview2.interface import Interface
from limpet.wasi.preview2.types import BYTES, U64, Tuple

if TYPE_CHECKING:
    from limpet.wasi.preview2.run import ComponentRun

RANDOM, INSECURE, INSECURE_SEED = Interface(), Interface(), Interface()
# A byte of a list costs the host 64 on its way: more than this at once ends the guest.
_MAX_BYTES = 1 << 20


@RANDOM.function("get-random-bytes", U64, returns=BYTES)
@INSECURE.function("get-insecure-random-bytes", U64, returns=BYTES)
def get_random_bytes(_run: ComponentRun, length: int) -> bytes:
    if length > _MAX_BYTES:
        raise GuestTrap(f"{length} random bytes asked for, {_MAX_BYTES} are the most at once")
    return os.urandom(length)


@RANDOM.function("get-random-u64", returns=U64)
@INSECURE.function("get-insecure-random-u64", returns=U64)
def get_random_u64(_run: ComponentRun) -> int:
    return int.from_bytes(os.urandom(8), "little")


@INSECURE_SEED.function("insecure-seed", returns=Tuple((U64, U64)))
def insecure_seed(run: ComponentRun) -> tuple[int, int]:
    return get_random_u64(run), get_random_u64(run)
