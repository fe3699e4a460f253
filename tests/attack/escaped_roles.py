"""Native code in the processes that download, verify and parse: it runs once their walls are up.

That is the moment before they read what a stranger wrote: they have what somebody has who takes one over.
Orders come in a file, `{"role": ..., "run": ..., "arguments": ...}`, which is read while the
process still may; what came of it goes to the node's log, and then the process does its work as usual.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limpet.worker.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limpet.linux.landlock import Access
    from limpet.worker.sandbox import Role

BEGIN, END = "ESCAPED ", " ENDED"


def escape(orders: str) -> None:
    """Have every process of this node look into that file when it raises its first walls."""
    import natives  # here, in the zygote: behind the walls there are no files

    retire, seal = Sandbox.retire, Sandbox.seal
    order: dict[str, Any] = {}

    def retire_and_read(self: Sandbox, role: Role) -> None:
        found = _read(orders)
        if found.get("role") == role.name:
            order.update(found)
        retire(self, role)

    def seal_and_run(
        self: Sandbox, role: Role, directories: Iterable[tuple[int, Access]] = ()
    ) -> None:
        seal(self, role, directories)
        if order:
            result = natives.run(order["run"], order["arguments"])
            said = BEGIN + json.dumps({"id": order["id"], "result": result}) + END
            os.write(2, f"\n{said}\n".encode())

    Sandbox.retire = retire_and_read  # type: ignore[method-assign]
    Sandbox.seal = seal_and_run  # type: ignore[method-assign]


def _read(path: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(path).read_text())
    except FileNotFoundError:
        return {}
    assert isinstance(found, dict)
    return found
