"""`python -m limpet.node`: a node in a lean interpreter. `limpet up` checks its options and execs this.

Options: `--data DIR`, `--socket PATH`, `--config FILE`, `--name NAME`, `--manifests DIR`, and
`--unlock-fd N`, an inherited descriptor with the key that `limpet up` made from a passphrase
(`limpet.store.unlock.Passphrase`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from limpet.errors import InvalidInputError, LimpetError
from limpet.node.imports import freeze, preload, without_openssl

with without_openssl():
    from limpet.node.handover import Handover
from limpet.settings import DEFAULT_SETTINGS_FILE, Settings, load_settings

if TYPE_CHECKING:
    from limpet.node.handover import Trial
    from limpet.node.launcher import Inheritance, Launcher
    from limpet.worker.channel import Channel

_OPTIONS = {
    "--data": "node.data_directory",
    "--socket": "node.socket_path",
    "--name": "node.name",
    "--manifests": "node.manifests",
}


def main(options: list[str]) -> int:
    """Run a node until it is told to stop; return the exit code."""
    try:
        options, unlock = take_descriptor(options)
        settings = parse_options(options)
    except LimpetError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return make_launcher(settings, options, Handover(unlock=unlock)).run()


def make_launcher(
    settings: Settings,
    options: list[str],
    handover: Handover,
    *,
    trial: Trial | None = None,
    trial_failure: str | None = None,
) -> Launcher:
    """Return a launcher that has all it needs in memory: `limpet.node.launcher.Launcher`."""
    preload()
    from limpet.node.launcher import Launcher

    return Launcher(
        settings,
        run_agent=_run_agent,
        run_zygote=_run_zygote,
        options=options,
        handover=handover,
        trial=trial,
        trial_failure=trial_failure,
    )


def _run_agent(settings: Settings, launcher: Channel, inheritance: Inheritance) -> int:
    with without_openssl():
        from limpet.api.server import ApiServer
        from limpet.node.agent import run_agent
    freeze()
    return run_agent(settings, launcher, inheritance, make_api=ApiServer)


def _run_zygote(settings: Settings, channel: Channel, engine: str) -> NoReturn:
    from limpet.node.zygote import become_zygote

    become_zygote(str(settings.node.data_directory), channel, engine)


def take_descriptor(options: list[str]) -> tuple[list[str], int | None]:
    """Split `--unlock-fd N` off, and keep the descriptor from whatever is executed later."""
    if "--unlock-fd" not in options[::2]:
        return options, None
    at = options.index("--unlock-fd")
    text = "".join(options[at + 1 : at + 2])
    try:
        descriptor = int(text)
        os.set_inheritable(descriptor, False)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInputError(f"--unlock-fd {text}: not an open descriptor") from error
    return options[:at] + options[at + 2 :], descriptor


def parse_options(options: list[str]) -> Settings:
    """Turn the node's command line into settings. Raises `InvalidInputError`."""
    overrides: dict[str, object] = {}
    file: Path | None = None
    if len(options) % 2:
        raise InvalidInputError(f"option {options[-1]} has no value; see `limpet up --help`")
    for name, value in zip(options[::2], options[1::2], strict=True):
        if name == "--config":
            file = Path(value)
        elif name in _OPTIONS:
            overrides[_OPTIONS[name]] = value
        else:
            raise InvalidInputError(f"unknown option {name}; see `limpet up --help`")
    if file is None and DEFAULT_SETTINGS_FILE.exists():
        file = DEFAULT_SETTINGS_FILE
    return load_settings(file=file, environment=os.environ, overrides=overrides)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
