"""`limpet upgrade`: another version of Limpet is tried beside this one; it stays if it is healthy."""

from __future__ import annotations

import errno
import time
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from limpet.cli.ending import signals_end_this
from limpet.cli.options import connect, examples, socket_option
from limpet.cli.render import write_fields, write_json
from limpet.cli.terminal import StatusLine, one_line
from limpet.errors import (
    ConflictError,
    LimpetError,
    NotFoundError,
    TemporaryError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limpet.api.answers import Json
    from limpet.api.client import Client
    from limpet.upgrade.install import Source
    from limpet.upgrade.layout import Prefix

_POLL_SECONDS = 0.2
# Beyond the trial itself: the alarm's time, both launchers' starts, and the way back.
_LATE_SHARE, _LATE_SECONDS = 1.5, 60.0


class UpgradeFailedError(LimpetError):
    """The version was tried, was not healthy, and the one before runs."""

    reason = "UpgradeFailed"


@click.command(
    epilog=examples(
        "limpet upgrade /media/stick/wheels        # a folder of wheels, no network needed",
        "limpet upgrade /media/stick/site.bundle   # made by limpet bundle create --wheels",
        "limpet upgrade 0.3.0                      # from pip's index",
        "limpet upgrade --status",
        "limpet upgrade --rollback                 # to the version before",
        "limpet upgrade wheels/ --prefix /opt/limpet   # the first time",
    )
)
@click.argument("source", required=False)
@click.option("--status", "is_status", is_flag=True, help="Say what is installed and how it went.")
@click.option("--rollback", "is_rollback", is_flag=True, help="Try the version before.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and whether there is room.")
@click.option(
    "--prefix",
    metavar="DIR",
    help="Where versions lie side by side. Default: where this limpet does, else /opt/limpet.",
)
@click.option(
    "--require-signature",
    is_flag=True,
    help="Refuse all but a bundle that is signed by a key of the node's setting bundles.keys.",
)
@click.option(
    "--untried",
    is_flag=True,
    help="Only while no node runs: let it start at the next boot, with nothing that would go back.",
)
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
@socket_option
def upgrade(
    source: str | None,
    *,
    is_status: bool,
    is_rollback: bool,
    dry_run: bool,
    prefix: str | None,
    require_signature: bool,
    untried: bool,
    is_json: bool,
    socket: str | None,
) -> None:
    """Upgrade Limpet from SOURCE: a folder of wheels, a wheel, a bundle with wheels, or a version.

    Apps serve on throughout. The new version has to be healthy within two minutes, with every app ready that
    was; else the version before comes back by itself.
    """
    if sum((source is not None, is_status, is_rollback)) != 1:
        raise click.UsageError("expected one of SOURCE, --status and --rollback")
    if require_signature and source is None:
        raise click.UsageError(
            "--require-signature is for SOURCE: what is installed is not looked at"
        )
    client = connect(socket)
    place = _choose_prefix(prefix)
    if is_status:
        _show_status(place, _ask(client), is_json=is_json)
        return
    with signals_end_this(), StatusLine() as status:
        task = _Task(
            place,
            client,
            status,
            is_dry=dry_run,
            is_untried=untried,
            require_signature=require_signature,
        )
        told = task.install(source) if source is not None else task.roll_back()
    if is_json:
        write_json(told)
    else:
        click.echo(told["message"])


def _choose_prefix(given: str | None) -> Prefix:
    from limpet.upgrade.layout import DEFAULT_PREFIX, Prefix, running_prefix

    if given is not None:
        return Prefix(Path(given).expanduser().absolute())
    return running_prefix() or Prefix(DEFAULT_PREFIX)


def _ask(client: Client) -> Json | None:
    """What the node says of upgrades; None when none runs."""
    from limpet.api.exchange import NodeNotRunningError

    try:
        return client.upgrade()
    except NodeNotRunningError:
        return None


@dataclass(frozen=True, slots=True)
class _Task:
    """What the command line asks for, and whom it is about."""

    place: Prefix
    client: Client
    status: StatusLine
    is_dry: bool
    is_untried: bool
    require_signature: bool

    def install(self, text: str) -> Json:
        """Install a version, and have it tried or, without any before it, let it start from now on."""
        from limpet.cli.upgrade_sources import is_bundle, open_source

        place = self.place
        with ExitStack() as stack:
            if not self.is_dry or is_bundle(text):  # a bundle is unpacked to be looked at
                stack.enter_context(self._alone())
            node = self._find_node() if place.current is not None else None
            source = stack.enter_context(
                open_source(
                    text,
                    place=place,
                    client=self.client,
                    status=self.status,
                    require_signature=self.require_signature,
                )
            )
            if source.version == (node["version"] if node is not None else place.current):
                raise ConflictError(f"version {source.version} is what runs")
            if self.require_signature:
                self._check_replaceable(source.version)
            if self.is_dry:
                return _plan(place, source, node, is_anew=self.require_signature)
            self._install(source, node)
            return self._begin(node, source.version)

    def roll_back(self) -> Json:
        """Go back to the version before."""
        with nullcontext() if self.is_dry else self._alone():
            place, current, previous = self.place, self.place.current, self.place.previous
            if current is None or previous is None or place.find(previous) is None:
                raise NotFoundError(f"there is no version before in {place.path}")
            node = self._find_node()
            here, there = place.require(current), place.require(previous)
            if there.schema < here.schema:
                raise ConflictError(
                    f"version {previous} can't read the state that {current} has written (schema "
                    f"{here.schema}, it knows up to {there.schema}); nothing was changed"
                )
            if self.is_dry:
                message = f"version {previous} would be tried; nothing was changed"
                return {
                    "version": previous,
                    "state": "planned",
                    "needed_bytes": 0,
                    "message": message,
                }
            return self._begin(node, previous)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Change what is installed and have it tried, with nobody else removing it meanwhile."""
        from limpet.upgrade.install import NoRoomError

        place = self.place
        try:
            with place.locked():
                place.remove_scratch()
                yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoomError(
                    f"the disk of {place.path} is full ({error}); what runs was not changed. Free some "
                    "space there and try again"
                ) from error
            raise UnavailableError(f"can't change {place.path}: {error}") from error

    def _find_node(self) -> Json | None:
        """What tries a version: a node of this installation. None where it is to be done without."""
        node, path = _ask(self.client), self.place.path
        if node is None and self.is_untried:
            return None
        if node is None:
            raise UnavailableError(
                f"no node runs that could try another version; start {path}/current/bin/limpet up "
                "first. If that does not come up: --untried"
            )
        if self.is_untried:
            raise ConflictError("a node runs and can try it; leave out --untried")
        if node["prefix"] != str(path):
            runs_from = node["prefix"] or "elsewhere, where no versions lie side by side"
            raise ConflictError(
                f"the node that runs is not one of {path}: it runs from {runs_from}. Stop it, start "
                f"{path}/current/bin/limpet up, and try again (docs/upgrade.md)"
            )
        if node["is_undecided"]:
            raise TemporaryError("a version is being tried already; see `limpet upgrade --status`")
        return node

    def _check_replaceable(self, version: str) -> None:
        """See that a version can be made anew: what is installed is not what was verified now."""
        place = self.place
        if version in (place.current, place.previous) and place.find(version) is not None:
            raise ConflictError(
                f"version {version} is installed already, maybe from other wheels than the signed ones, and "
                "stays to be started or gone back to; nothing was changed. `limpet upgrade --rollback` "
                "tries the version before as it is"
            )

    def _install(self, source: Source, node: Json | None) -> None:
        from limpet.cli.upgrade_rehearsal import rehearse
        from limpet.upgrade.install import install

        place, running = self.place, node["version"] if node is not None else None
        last = (node["last"] if node is not None else None) or {}
        is_tainted = last.get("version") == source.version and last.get("state") == "failed"
        # Another build may have the same number.
        if is_tainted or self.require_signature:
            place.remove(source.version)
        place.remove_but({place.current, place.previous, running, source.version})
        install(place, source, rehearse=rehearse, tell=self.status.show)

    def _begin(self, node: Json | None, version: str) -> Json:
        if node is not None:
            return self._try(node, version)
        self.place.switch(version)
        start = f"{self.place.path}/current/bin/limpet up"
        message = f"version {version} is what starts from now on: {start}"
        return {"version": version, "state": "installed", "message": message}

    def _try(self, node: Json, version: str) -> Json:
        """Have a version tried, and wait for how that ends. Raises `UpgradeFailedError`."""
        self.client.try_version(version)
        deadline = time.monotonic() + node["trial_seconds"] * _LATE_SHARE + _LATE_SECONDS
        while (last := self._ended(version)) is None:
            if time.monotonic() > deadline:
                raise TemporaryError(
                    f"version {version} is still being tried; see `limpet upgrade --status`"
                )
            self.status.show(f"trying version {version}: apps serve on")
            time.sleep(_POLL_SECONDS)
        previous = last["previous"]
        if last["state"] == "failed":
            raise UpgradeFailedError(
                f"version {version} was tried and is not used, {previous} runs: {last['reason']}"
            )
        self.place.remove_but({self.place.current, self.place.previous})
        message = f"version {version} runs; {previous} is kept for `limpet upgrade --rollback`"
        return {"version": version, "state": last["state"], "message": message}

    def _ended(self, version: str) -> Json | None:
        """The record of a version's trial once it is over. The node's processes change meanwhile."""
        try:
            last: Json | None = self.client.upgrade()["last"]
        except (UnavailableError, TemporaryError):
            return None
        is_over = last is not None and last["version"] == version and last["state"] != "trial"
        return last if is_over else None


def _plan(place: Prefix, source: Source, node: Json | None, *, is_anew: bool) -> Json:
    from limpet.upgrade.install import check_room, needed_bytes

    if place.find(source.version) is not None and not is_anew:
        what, needed = "is installed already", 0
    else:
        check_room(place, source)
        needed = needed_bytes(place, source)
        what = f"would be installed in {place.folder(source.version)} (some {needed >> 20} MiB)"
    then = "would be tried" if node is not None else "would be what starts"
    return {
        "version": source.version,
        "state": "planned",
        "needed_bytes": needed,
        "message": f"version {source.version} {what}, and then {then}; nothing was changed",
    }


def _show_status(place: Prefix, node: Json | None, *, is_json: bool) -> None:
    versions = [each.version for each in place.versions()]
    told = {
        "prefix": str(place.path),
        "current": place.current,
        "previous": place.previous,
        "versions": versions,
        "node": node,
    }
    if is_json:
        write_json(told)
        return
    rows = [
        ("Prefix", str(place.path)),
        ("Starts at boot", place.current or "nothing is installed here"),
        ("Version before", place.previous or "none"),
        ("Installed", ", ".join(versions) or "none"),
    ]
    if node is None:
        rows.append(("Node", "not running"))
    else:
        where = (
            "" if node["prefix"] == str(place.path) else f" from {node['prefix'] or 'elsewhere'}"
        )
        rows.append(("Node", f"{node['version']}{where}"))
        rows.append(("Last upgrade", _describe(node["last"])))
    write_fields(rows)


def _describe(last: Json | None) -> str:
    if last is None:
        return "none"
    if last["state"] == "trial":
        return f"{last['version']} is being tried; {last['previous']} is what it comes from"
    if last["state"] == "complete":
        return f"{last['version']} runs; before it was {last['previous']}"
    return one_line(f"{last['version']} failed, {last['previous']} runs: {last['reason']}")
