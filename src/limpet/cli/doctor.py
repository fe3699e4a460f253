"""`limpet doctor`: what this device has of what Limpet uses, found by trying, and what helps."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import click

from limpet.cli.options import connect, examples, output_option, resolve_socket, socket_option
from limpet.cli.render import write_json
from limpet.cli.terminal import StatusLine, is_terminal, one_line, styled

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from limpet.api.answers import Json
    from limpet.provision.finding import Finding
    from limpet.settings import Settings

_SOMETHING_MISSING = 1
_NODE_SECONDS = 5.0
_PIPE_COLUMNS = 80
_MAX_COLUMNS = 120
_LEVEL_COLOURS = {"ok": "green", "missing": "red", "hint": "yellow"}
_LEVEL_WIDTH = len("missing")
_GAP = "  "


@click.command(
    epilog=examples(
        "limpet doctor                    # as the user that will run the node",
        "sudo limpet doctor               # what the node has when root runs it",
        "limpet doctor -o json | jq '.findings[] | select(.level == \"missing\")'",
    )
)
@click.option(
    "--data",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="The node's data directory. Default: /var/lib/limpet for root.",
)
@output_option("text", "json")
@socket_option
def doctor(*, data: str | None, output: str | None, socket: str | None) -> None:
    """Try everything that keeps apps apart here, and say what is missing and what helps.

    Needs no node; asks one that runs what it found itself. Changes nothing and leaves nothing.
    Exit code 0: nothing is missing. 1: an app may be refused, or less guarded.
    """
    settings = _load_settings(data)
    with StatusLine() as status:
        status.show("trying")
        findings = _examine(settings)
    report = _report(settings, findings, node=_ask_node(socket), socket=socket)
    if output == "json":
        write_json(report)
    else:
        for line in render_report(report, columns=_columns()):
            click.echo(line)
    if not report["ok"]:
        raise click.exceptions.Exit(_SOMETHING_MISSING)


def _load_settings(data: str | None) -> Settings:
    from limpet.settings import DEFAULT_SETTINGS_FILE, load_settings

    file = DEFAULT_SETTINGS_FILE if DEFAULT_SETTINGS_FILE.exists() else None
    return load_settings(file=file, environment=os.environ, overrides={"node.data_directory": data})


def _examine(settings: Settings) -> list[Finding]:
    from limpet.provision.device import examine_device
    from limpet.provision.kernel import examine_facilities

    return [*examine_facilities(), *examine_device(settings)]


def _ask_node(socket: str | None) -> Json:
    """What a node that listens says of itself; whether one does, and why it can't be asked."""
    from limpet.api.exchange import NodeNotRunningError
    from limpet.errors import LimpetError

    told: dict[str, Any] = {"running": True, "problem": None}
    client = connect(socket, timeout_seconds=_NODE_SECONDS)
    try:
        node = client.node()
        keys = client.keys()
    except NodeNotRunningError:
        return {"running": False, "problem": None}
    except LimpetError as error:
        return told | {"problem": str(error)}
    known = ("name", "version", "engine", "data_directory", "facilities", "not_enforced")
    told |= {key: node.get(key) for key in known}
    parts = ("source", "where", "protects_against", "does_not_protect_against")
    return told | {"keys": {key: keys.get(key) for key in parts}}


def _report(
    settings: Settings, findings: Sequence[Finding], *, node: Json, socket: str | None
) -> Json:
    from limpet.manifest.model import Facility

    kernel = os.uname()
    names = frozenset(map(str, Facility))
    shown = [_shown(finding) for finding in findings]
    return {
        "ok": all(finding["level"] != "missing" for finding in shown),
        "uid": os.geteuid(),
        "machine": kernel.machine,
        "kernel": kernel.release,
        "data_directory": str(settings.node.data_directory),
        "socket": str(resolve_socket(socket)),
        "facilities": {
            finding["name"]: finding["level"] != "missing"
            for finding in shown
            if finding["name"] in names
        },
        "findings": shown,
        "node": node,
    }


def _shown(finding: Finding) -> Json:
    return {
        "name": str(finding.name),
        "level": str(finding.level),
        "found": finding.found,
        "without": finding.without,
        "fix": finding.fix,
        "details": dict(finding.details),
    }


def _columns() -> int:
    if not is_terminal(sys.stdout):
        return _PIPE_COLUMNS
    return min(shutil.get_terminal_size().columns, _MAX_COLUMNS)


def render_report(report: Json, *, columns: int) -> list[str]:
    """Return the screen, no line wider than `columns` (at least 40)."""
    findings = report["findings"]
    width = max(len(finding["name"]) for finding in findings)
    user = "root" if report["uid"] == 0 else f"user {report['uid']}"
    lines = [
        styled(f"Linux {report['kernel']} on {report['machine']}, as {user}", is_bold=True),
        "",
    ]
    for finding in findings:
        lines += _finding_lines(finding, name_width=width, columns=columns)
    lines += ["", *_node_lines(report, columns=columns), *_verdict(findings, columns=columns)]
    return lines


def _finding_lines(finding: Json, *, name_width: int, columns: int) -> list[str]:
    level = styled(finding["level"].ljust(_LEVEL_WIDTH), colour=_LEVEL_COLOURS[finding["level"]])
    name = styled(finding["name"].ljust(name_width), is_bold=finding["level"] == "missing")
    margin = _LEVEL_WIDTH + name_width + 2 * len(_GAP)
    text = _wrapped(finding["found"], columns=columns, margin=margin)
    lines = [f"{level}{_GAP}{name}{_GAP}{text[0]}", *(" " * margin + line for line in text[1:])]
    if finding["level"] == "ok":
        return lines
    for label in ("without", "fix"):
        if finding[label]:
            lines += _labelled(label, finding[label], columns=columns, margin=margin)
    return lines


def _labelled(label: str, text: str, *, columns: int, margin: int) -> list[str]:
    head = f"{label}: "
    wrapped = _wrapped(head + text, columns=columns, margin=margin)
    wrapped[0] = wrapped[0].replace(head, styled(head.rstrip(), is_bold=True) + " ", 1)
    return [" " * margin + line for line in wrapped]


def _node_lines(report: Json, *, columns: int) -> list[str]:
    node = report["node"]
    socket = report["socket"]
    if not node["running"]:
        return _wrapped(f"No node is listening on {socket}.", columns=columns)
    if node["problem"]:
        return _wrapped(f"A node can't be asked: {node['problem']}.", columns=columns)
    about = f"Node {node['name']} ({node['version']}) is listening on {socket}."
    lines = _wrapped(about, columns=columns)
    lines += _wrapped(f"It found {_own_facilities(node['facilities'] or {})}.", columns=columns)
    keys = node["keys"]
    lines += _wrapped(f"Its key: {keys['source']}, {keys['where']}.", columns=columns)
    for label, key in (("protects", "protects_against"), ("not", "does_not_protect_against")):
        for text in keys[key] or ():
            lines += _labelled(label, text, columns=columns, margin=len(_GAP))
    return lines


def _own_facilities(facilities: Json) -> str:
    lacking = [name for name, is_there in facilities.items() if is_there is False]
    unknown = [name for name, is_there in facilities.items() if is_there is None]
    parts = [f"{', '.join(lacking)} missing" if lacking else "nothing missing"]
    if unknown:
        parts.append(f"{', '.join(unknown)} not needed so far")
    return "; ".join(parts)


def _verdict(findings: Iterable[Json], *, columns: int) -> list[str]:
    missing = [finding["name"] for finding in findings if finding["level"] == "missing"]
    if not missing:
        return [styled("Nothing is missing.", colour="green")]
    told = f"Missing: {', '.join(missing)}."
    return [styled(line, colour="red") for line in _wrapped(told, columns=columns)]


def _wrapped(text: str, *, columns: int, margin: int = 0) -> list[str]:
    """Lines of the text; a path that is too long for one is not torn."""
    lines = textwrap.wrap(
        one_line(text),
        max(columns - margin, 20),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [""]
