"""`python -m limpet.node`: a node in a lean interpreter. `limpet up` checks its options and execs this.

Options: `--data DIR --socket PATH --config FILE --name NAME`, each with a value.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from limpet.errors import InvalidInputError, LimpetError
from limpet.settings import Settings, load_settings

_OPTIONS = {"--data": "node.data_directory", "--socket": "node.socket_path", "--name": "node.name"}


def main(arguments: list[str]) -> int:
    """Run a node until it is told to stop; return the exit code."""
    try:
        settings = _settings(arguments)
        from limpet.node.preload import preload

        preload()
        from limpet.node.launcher import Launcher

        return Launcher(settings).run()
    except LimpetError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


def _settings(arguments: list[str]) -> Settings:
    overrides: dict[str, object] = {}
    file: Path | None = None
    for name, value in zip(arguments[::2], arguments[1::2], strict=False):
        if name == "--config":
            file = Path(value)
        elif name in _OPTIONS:
            overrides[_OPTIONS[name]] = value
        else:
            raise InvalidInputError(f"unknown option {name}; see `limpet up --help`")
    if len(arguments) % 2:
        raise InvalidInputError(f"option {arguments[-1]} has no value; see `limpet up --help`")
    return load_settings(file=file, environment=os.environ, overrides=overrides)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
