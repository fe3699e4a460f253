"""`limpet key`: what encrypts this node's data, and how to change it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from limpet.cli.options import connect, examples, output_option, socket_option
from limpet.cli.render import write_fields, write_json
from limpet.cli.terminal import StatusLine, warning

if TYPE_CHECKING:
    from limpet.api.answers import Json

_ROTATE_SECONDS = 600.0


@click.group(
    no_args_is_help=True,
    epilog=examples("limpet key show", "limpet key rotate --dry-run", "limpet key rotate"),
)
def key() -> None:
    """Show or change what encrypts this node's data. Keys themselves are never shown."""


@key.command(epilog=examples("limpet key show", "limpet key show -o json | jq .generation"))
@output_option("text", "json")
@socket_option
def show(*, output: str | None, socket: str | None) -> None:
    """Show where the unlock key comes from, and what it protects against and what not."""
    told = connect(socket).keys()
    if output == "json":
        write_json(told)
        return
    older = [str(each["generation"]) for each in told["generations"][1:]]
    rows = [
        ("Unlocked by", f"{told['source']}: {told['where']}"),
        ("Cipher", told["cipher"]),
        ("Node key", f"generation {told['generation']}, made {told['created_at']}"),
        ("Older keys", f"{', '.join(older)} (for volumes made with them)" if older else "none"),
    ]
    rows += [("Protects", text) for text in told["protects_against"]]
    rows += [("Does not", text) for text in told["does_not_protect_against"]]
    write_fields(rows)


@key.command(
    epilog=examples(
        "limpet key rotate --dry-run       # say what would be done",
        "limpet key rotate                 # a node with a passphrase asks for the new one",
        "limpet key rotate --passphrase-fd 3 3< new-passphrase",
    )
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, change nothing.")
@click.option(
    "--passphrase-fd",
    metavar="N",
    type=click.IntRange(min=0),
    help="Read the new passphrase from this descriptor.",
)
@output_option("text", "json")
@socket_option
def rotate(
    *, dry_run: bool, passphrase_fd: int | None, output: str | None, socket: str | None
) -> None:
    """Make a new node key and a new unlock key, and encrypt state and logs anew.

    Apps run on. Volumes are encrypted anew when the node starts next. A kill or a power cut at any point
    leaves keys that open everything.
    """
    client = connect(socket, timeout_seconds=_ROTATE_SECONDS)
    source = client.keys()["source"]
    if passphrase_fd is not None and source != "passphrase":
        raise click.UsageError(f"this node has no passphrase: its keys.source is {source}")
    if source == "passphrase" and not dry_run:
        from limpet.cli.passphrase import new_stretching, obtain_new, stretch

        passphrase = obtain_new(passphrase_fd)
        how = new_stretching()
        with StatusLine() as status:
            status.show("encrypting the node's data anew")
            told = client.rotate_keys(unlock_key=stretch(passphrase, how), scrypt=asdict(how))
    else:
        with StatusLine() as status:
            status.show("encrypting the node's data anew")
            told = client.rotate_keys(dry_run=dry_run)
    if output == "json":
        write_json(told)
        return
    _write_rotation(told)


def _write_rotation(told: Json) -> None:
    would = "would get" if told["dry_run"] else "has"
    click.echo(f"the node key {would} generation {told['generation']}")
    if told["new_unlock_key"]:
        verb = "would be" if told["dry_run"] else "is"
        click.echo(f"the unlock key {verb} new: {told['where']}")
    else:
        click.echo(
            f"the unlock key stays: it is a credential ({told['where']}), which is systemd's to change"
        )
    verb = "would be" if told["dry_run"] else "are"
    click.echo(f"{' and '.join(told['encrypted_anew'])} {verb} encrypted anew")
    click.echo(
        "volumes are encrypted anew when the node starts next, if the disk has room for a copy"
    )
    if told["source"] == "file" and not told["dry_run"]:
        click.echo(f"back up {told['where']}: the old copy no longer opens this node's data")
    for problem in told["problems"]:
        warning(problem)
