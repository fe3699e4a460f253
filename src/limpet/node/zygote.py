"""An engine's zygote, in the interpreter that the engine needs.

`python -m limpet.node.zygote ENGINE LIBRARY DESCRIPTOR` is one in an interpreter of its own: the node runs
it so where an engine's library can't be loaded into the interpreter that the node itself runs in.
DESCRIPTOR is the inherited socket to the agent.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from limpet.engine import locate_engine
from limpet.errors import UnavailableError
from limpet.node.imports import without_openssl

if TYPE_CHECKING:
    from limpet.worker.channel import Channel


def become_zygote(data_directory: str, channel: Channel, engine: str) -> NoReturn:
    """Serve the agent until it goes; where there is no such engine, say so and end."""
    with without_openssl():
        from limpet.worker.zygote import refuse, run_zygote
    try:
        command, library = locate_engine(engine, data_directory)
    except UnavailableError as error:
        refuse(channel, error)
    if command is None:
        run_zygote(channel, engine, library)
    os.set_inheritable(channel.fileno(), True)
    arguments = [
        *command,
        "-P",
        "-m",
        "limpet.node.zygote",
        engine,
        library or "",
        str(channel.fileno()),
    ]
    os.execve(arguments[0], arguments, os.environ)  # noqa: S606


def main(engine: str, library: str, descriptor: int) -> NoReturn:
    """Be the zygote that the node executed."""
    os.set_inheritable(descriptor, False)
    with without_openssl():
        import hashlib  # noqa: F401 - before OpenSSL could come along

        from limpet.node.launcher import keep_memory_private
        from limpet.worker.channel import Channel
        from limpet.worker.zygote import run_zygote
    keep_memory_private()  # what was executed starts over with it
    run_zygote(Channel.from_descriptor(descriptor), engine, library or None)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
