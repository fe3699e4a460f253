"""`python -m limpet.node.check`: whether this version can be a node here, as far as that is seen without one.

Imports what the launcher, the agent and a zygote import, loads the default engine, and prints what another
version has to know of this one (`limpet.upgrade.layout.Installed`) as JSON.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module

from limpet import __version__
from limpet.errors import LimpetError

_NEEDED = (
    "limpet.api.server",
    "limpet.cli.up",
    "limpet.node.agent",
    "limpet.node.takeover",
    "limpet.node.zygote",
    "limpet.worker.child",
    "limpet.worker.zygote",
)


def main() -> int:
    """Print what this version is; the exit code says whether it is whole."""
    for name in _NEEDED:
        import_module(name)
    from limpet.engine import open_engine
    from limpet.store.database import SCHEMA_VERSION
    from limpet.upgrade.layout import HANDOVER

    try:
        open_engine()
    except LimpetError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    told = {"version": __version__, "schema": SCHEMA_VERSION, "handover": HANDOVER}
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
