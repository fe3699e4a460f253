"""`limpet rollout`: follow and steer the releases of an app, with kubectl's words."""

from __future__ import annotations

import time
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, TypeVar

import click

from limpet.cli import kinds
from limpet.cli.options import (
    complete_apps,
    connect,
    duration_option,
    examples,
    namespace_option,
    output_option,
    socket_option,
)
from limpet.cli.render import Column, Styled, write_fields, write_json, write_table, write_title
from limpet.cli.terminal import one_line
from limpet.cli.units import format_age

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limpet.api.answers import AppStatus, ReleaseInfo
    from limpet.api.client import Client
    from limpet.cli.kinds import Kind
    from limpet.cli.render import Cell

_STYLES = {"complete": "green", "failed": "red", "progressing": "yellow", "superseded": "magenta"}
_PAUSES = (0.02, 0.02, 0.05, 0.05, 0.1, 0.1, 0.2)
_SHORT_DIGEST = 19
_Command = TypeVar("_Command", bound="Callable[..., Any]")


def _app_argument(command: _Command) -> _Command:
    """`KIND/NAME`, `words` of the command."""
    return click.argument(
        "words", nargs=-1, required=True, metavar="KIND/NAME", shell_complete=complete_apps
    )(command)


def _change_options(command: _Command) -> _Command:
    """The app, and how to tell of its change."""
    tell = output_option("text", "json", "name")
    return _app_argument(tell(namespace_option(socket_option(command))))


@click.group(
    no_args_is_help=True,
    epilog=examples(
        "limpet rollout status deployment/hello",
        "limpet rollout history deployment/hello",
        "limpet rollout undo deployment/hello --to-revision 3",
        "limpet rollout restart deployment/hello",
    ),
)
def rollout() -> None:
    """Follow and steer releases: every change of an app is one, and a failed one goes back."""


@rollout.command(
    epilog=examples(
        "limpet rollout status deployment/hello                 # wait for the end",
        "limpet rollout status deployment/hello --timeout 5m",
        "limpet rollout status deployment/hello --watch=false   # say how it stands",
    )
)
@_app_argument
@click.option(
    "-w",
    "--watch",
    type=bool,
    default=True,
    metavar="BOOL",
    help="Wait for the end. Default: true.",
)
@duration_option("--timeout", default="0s", help="How long to wait; 0s is for ever. Default: 0s.")
@click.option("--revision", type=int, default=0, help="Fail when another release is the newest.")
@output_option("text", "json")
@namespace_option
@socket_option
def status(
    words: tuple[str, ...],
    *,
    watch: bool,
    timeout: float,
    revision: int,
    output: str | None,
    namespace: str | None,
    socket: str | None,
) -> None:
    """Wait until the newest release is complete. Exits with 1 when it failed, or went back, and says
    why; with 7 when time is up.
    """
    from limpet.cli.rollout_status import describe_rollout, judge, require_rollout
    from limpet.cli.waiting import NotReadyError

    kind, name = _target(words)
    client = connect(socket)
    deadline = time.monotonic() + timeout if timeout else float("inf")
    told = ""
    for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
        app = _find(client, kind, namespace, name)
        found = require_rollout(app, revision=revision)
        line = describe_rollout(app)
        is_over = not watch or found["status"] in ("complete", "failed")
        if output != "json" and line != told and found["status"] != "failed":
            click.echo(one_line(line))
            told = line
        if is_over:
            break
        if time.monotonic() >= deadline:
            raise NotReadyError(f"{line} (given up after {timeout:g} s)")
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
    if output == "json":
        write_json(found)
    judge(app)


@rollout.command(
    epilog=examples(
        "limpet rollout history deployment/hello",
        "limpet rollout history deployment/hello --revision 3   # what it was",
        "limpet rollout history deployment/hello -o json",
    )
)
@_app_argument
@click.option("--revision", type=int, default=0, help="Show one release with its pod template.")
@output_option("text", "json")
@namespace_option
@socket_option
def history(
    words: tuple[str, ...],
    *,
    revision: int,
    output: str | None,
    namespace: str | None,
    socket: str | None,
) -> None:
    """List the releases that are kept, with what became of each."""
    kind, name = _target(words)
    client = connect(socket)
    app = _find(client, kind, namespace, name)
    if revision:
        release = client.release(namespace=app["namespace"], name=name, number=revision)
        write_json(release) if output == "json" else _write_release(app, release)
        return
    releases = client.releases(namespace=app["namespace"], name=name)
    if output == "json":
        write_json({"items": releases})
        return
    click.echo(one_line(kinds.reference(app["kind"], name)))
    _write_releases(releases)


@rollout.command(
    epilog=examples(
        "limpet rollout undo deployment/hello                  # the release before that worked",
        "limpet rollout undo deployment/hello --to-revision 3",
    )
)
@_app_argument
@click.option("--to-revision", type=int, default=0, help="The release to take. Default: the last.")
@output_option("text", "json", "name")
@namespace_option
@socket_option
def undo(words: tuple[str, ...], *, to_revision: int, **options: str | None) -> None:
    """Make a new release of an earlier one's template."""
    _change(words, "undo", to_revision or None, **options)


@rollout.command(epilog=examples("limpet rollout pause deployment/hello"))
@_change_options
def pause(words: tuple[str, ...], **options: str | None) -> None:
    """Hold a rollout where it is: what is applied from now on waits for `resume`."""
    _change(words, "pause", None, **options)


@rollout.command(epilog=examples("limpet rollout resume deployment/hello"))
@_change_options
def resume(words: tuple[str, ...], **options: str | None) -> None:
    """Let a paused rollout go on."""
    _change(words, "resume", None, **options)


@rollout.command(epilog=examples("limpet rollout restart deployment/hello"))
@_change_options
def restart(words: tuple[str, ...], **options: str | None) -> None:
    """Replace the workers, and try a release that failed again: as a new release of the same."""
    _change(words, "restart", None, **options)


def _change(
    words: Sequence[str],
    action: str,
    to_release: int | None,
    *,
    output: str | None,
    namespace: str | None,
    socket: str | None,
) -> None:
    kind, name = _target(words)
    client = connect(socket)
    app = _find(client, kind, namespace, name)
    done = client.change_rollout(
        namespace=app["namespace"], name=name, action=action, to_release=to_release
    )
    if output == "json":
        write_json(done)
        return
    shown = one_line(kinds.reference(app["kind"], name))
    told = str(done["action"])
    if told == "skipped":
        told = f"skipped rollback (release {done['release']} has that template already)"
    click.echo(shown if output == "name" else f"{shown} {told}")


def _target(words: Sequence[str]) -> tuple[Kind, str]:
    targets = kinds.parse_targets(words, default=kinds.APP)
    if len(targets) != 1:
        raise click.UsageError("name one app: NAME, KIND NAME or KIND/NAME")
    [(kind, name)] = targets
    if not kind.is_app:
        raise kinds.TargetError(f"a {kind.singular} has no rollouts; deployments and pods have")
    return kind, name


def _find(client: Client, kind: Kind, namespace: str | None, name: str) -> AppStatus:
    from limpet.errors import NotFoundError

    app = client.app(namespace=namespace or "default", name=name)
    if kind not in (kinds.APP, kinds.parse_kind(app["kind"])):
        raise NotFoundError(
            f"{kind.singular} {name} does not exist; {name} is a {app['kind'].lower()}"
        )
    return app


def _write_releases(releases: Sequence[ReleaseInfo]) -> None:
    columns = [
        Column("REVISION", is_number=True),
        Column("AGE", rank=2),
        Column("STATUS"),
        Column("CHANGE-CAUSE", is_flexible=True, rank=1),
        Column("DIGEST", rank=3),
        Column("MESSAGE", is_flexible=True),
    ]
    rows: list[list[Cell]] = [
        [
            str(release["release"]),
            format_age(release["created_at"]),
            _status(release),
            release["cause"] or "<none>",
            (release["digest"] or "-")[:_SHORT_DIGEST],
            release["message"] or "-",
        ]
        for release in releases
    ]
    write_table(columns, rows)


def _status(release: ReleaseInfo) -> Styled:
    in_force = ", in force" if release["is_in_force"] else ""
    return Styled(release["status"] + in_force, _STYLES.get(release["status"], ""))


def _write_release(app: AppStatus, release: ReleaseInfo) -> None:
    import yaml

    created = f"{format_age(release['created_at'])} ({release['created_at']})"
    write_fields(
        [
            ("App", Styled(kinds.reference(app["kind"], app["name"]), "bold")),
            ("Revision", str(release["release"])),
            ("Age", created),
            ("Status", _status(release)),
            *([("Message", release["message"])] if release["message"] else []),
            ("Cause", release["cause"] or "<none>"),
            ("Digest", release["digest"] or "-"),
        ]
    )
    spec = release["object"].get("spec") or {}
    write_title("Pod Template")
    text: str = yaml.safe_dump(spec.get("template") or spec, sort_keys=False)
    for line in text.splitlines():
        click.echo("  " + line)
