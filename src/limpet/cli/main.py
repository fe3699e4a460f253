"""The `limpet` command: finds a verb's module, runs it, and turns errors into exit codes.

`limpet --help` imports nothing but click: the verbs and their one-line helps are listed here, and
a verb's module is imported when it is called. This is the only place that exits.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from limpet import __version__
from limpet.errors import LimpetError

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTERRUPTED = 130
_BROKEN_PIPE = 141
_COMPLETE_VARIABLE = "_LIMPET_COMPLETE"

VERBS = {
    "run": "Run a module now, node or no node.",
    "inspect": "Say what a module needs, and what runs it.",
    "apply": "Create or change objects from manifests.",
    "get": "List apps and other objects.",
    "describe": "Show everything about one object.",
    "logs": "Print what an app wrote.",
    "top": "Show what apps use and how fast they answer.",
    "rollout": "Follow, undo, pause or restart an app's releases.",
    "delete": "Delete objects.",
    "bundle": "Carry apps to nodes without a network.",
    "push": "Put a module into a registry, perhaps signed.",
    "pull": "Get a module out of a registry.",
    "key": "Show or change what encrypts this node's data.",
    "engine": "Show, install or remove what runs WebAssembly.",
    "up": "Start a node here, in the foreground.",
    "upgrade": "Change over to another version of Limpet, or back.",
    "doctor": "Find out what this device has, and what helps.",
    "demo": "See Limpet work in a minute.",
    "version": "Show versions of client, node and engine.",
    "completion": "Print a shell's completion script.",
}
"""Each verb is the command `limpet.cli.VERB.VERB`."""


class Verbs(click.Group):
    """Verbs that are imported when they are called; `main` is the one translator of errors."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in VERBS:
            return None
        from importlib import import_module

        command: click.Command = getattr(import_module(f"limpet.cli.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in VERBS and not ctx.resilient_parsing and not name.startswith("-"):
            raise click.UsageError(f"unknown verb {name!r}{_nearest_verb(name)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        verbs = [
            CompletionItem(name, help=text)
            for name, text in VERBS.items()
            if name.startswith(incomplete)
        ]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - click's signature
        windows_expand_args: bool = True,  # noqa: FBT001, FBT002 - click's signature
        **extra: Any,  # noqa: ANN401 - click's signature
    ) -> NoReturn:
        """Run and exit, whatever happens; click's own way to end is not used."""
        del prog_name, complete_var, standalone_mode, windows_expand_args
        arguments = list(sys.argv[1:] if args is None else args)
        sys.exit(_run(self, arguments, extra))


@click.command(
    cls=Verbs,
    subcommand_metavar="VERB [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: limpet demo, or limpet run hello.wasm --port 8080.  "
    "Each verb's --help has examples.",
)
@click.option("--socket", metavar="PATH", help="The node's socket; also LIMPET_SOCKET.")
@click.option("-n", "--namespace", metavar="NAME", help="The namespace. Default: default.")
@click.version_option(__version__, message="limpet %(version)s")
def limpet(socket: str | None, namespace: str | None) -> None:
    """Limpet runs WebAssembly apps on this device, and keeps them running."""
    del socket, namespace  # the verbs' own options fall back to these: limpet.cli.options


def main() -> NoReturn:
    """The console script."""
    limpet.main()


def _run(group: click.Group, arguments: list[str], extra: dict[str, Any]) -> int:
    """Run the command line and say how it ended, as an exit code."""
    try:
        code = _invoke(group, arguments, extra)
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        _end_line()
        return _INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return _BROKEN_PIPE
    except click.ClickException as error:
        _show_usage(error)
        return error.exit_code
    except LimpetError as error:
        if _is_debugging():
            raise
        _show_problem(str(error))
        return error.exit_code
    except Exception as error:
        if _is_debugging():
            raise
        _show_problem(f"Limpet failed: {type(error).__name__}: {error}")
        _show_hint("this is a defect; LIMPET_DEBUG=1 shows where")
        return 1
    return code


def _invoke(group: click.Group, arguments: list[str], extra: dict[str, Any]) -> int:
    instruction = os.environ.get(_COMPLETE_VARIABLE)
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(group, extra, "limpet", _COMPLETE_VARIABLE, instruction)
    try:
        with group.make_context("limpet", arguments, **extra) as context:
            group.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    return 0


def _show_usage(error: click.ClickException) -> None:
    context = getattr(error, "ctx", None)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return
    _show_problem(error.format_message())
    if context is not None:
        _show_hint(f"see {context.command_path} --help")


def _show_problem(message: str) -> None:
    """One `error:` line per line: a manifest's problems come one a line."""
    from limpet.cli.terminal import printable, styled

    for line in printable(message).splitlines() or [""]:
        click.echo(f"{styled('error:', colour='red')} {line}", err=True)


def _show_hint(text: str) -> None:
    click.echo(f"       {text}", err=True)


def _end_line() -> None:
    """The shell's prompt shouldn't follow the `^C` that terminals echo."""
    if sys.stderr.isatty():
        click.echo(err=True)


def _nearest_verb(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, VERBS, n=1)
    return f"; did you mean `limpet {near[0]}`?" if near else ""


def _is_debugging() -> bool:
    return os.environ.get("LIMPET_DEBUG", "") not in ("", "0")


def _discard_output() -> None:
    """Let nobody meet the broken pipe again when the interpreter flushes at its end."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):
        pass  # a stream without a descriptor has nothing to break
