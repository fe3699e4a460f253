"""`limpet completion`: the script that teaches a shell Limpet's verbs, options and app names."""

from __future__ import annotations

import click

from limpet.cli.options import examples

_SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog=examples(
        'eval "$(limpet completion bash)"                                # in ~/.bashrc',
        'eval "$(limpet completion zsh)"                                 # in ~/.zshrc',
        "limpet completion fish > ~/.config/fish/completions/limpet.fish",
    )
)
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for bash, zsh or fish. Names of apps come from the node."""
    from click.shell_completion import get_completion_class

    complete = get_completion_class(shell)
    assert complete is not None
    root = context.find_root().command
    click.echo(complete(root, {}, "limpet", "_LIMPET_COMPLETE").source())
