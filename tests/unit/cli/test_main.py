from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from limpet import errors
from limpet.cli.main import VERBS, limpet, main

from .fake_node import make_app

COMMAND = [sys.executable, "-c", "from limpet.cli.main import main; main()"]


@pytest.fixture
def verb(monkeypatch):
    """Make `limpet demo` do something else."""

    def replace(action):
        command = click.Command("demo", callback=action)
        monkeypatch.setattr(limpet, "get_command", lambda ctx, name: command)

    return replace


def raiser(error):
    def action():
        raise error

    return action


def imported_modules(*arguments, env=None):
    """What a fresh interpreter imports for a command line."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMAND[1:], *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
    )
    lines = [line for line in result.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def test_help_lists_every_verb_in_one_line_each(limpet_):
    result = limpet_("--help")
    assert result.exit_code == 0
    for name, text in VERBS.items():
        assert f"  {name} " in result.stdout
        assert text in result.stdout


def test_without_a_verb_shows_the_help_and_fails():
    result = CliRunner().invoke(limpet, [])
    assert result.exit_code == 2
    assert "Verbs:" in result.stderr


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_examples(limpet_, name):
    result = limpet_(name, "--help")
    assert result.exit_code == 0
    assert f"    limpet {name}" in result.stdout or name == "completion"
    assert "Examples:" in result.stdout


@pytest.mark.parametrize("name", VERBS)
def test_every_short_help_is_a_sentence_that_fits(name):
    assert VERBS[name].endswith(".")
    assert len(VERBS[name]) < 60


def test_help_imports_nothing_but_click():
    modules = imported_modules("--help")
    assert "click" in modules
    ours = {name for name in modules if name.startswith("limpet")}
    assert ours == {"limpet", "limpet.errors", "limpet.cli", "limpet.cli.main"}
    assert not modules & {"rich", "yaml", "http", "socket", "subprocess", "asyncio", "json"}


def test_reading_into_a_pipe_imports_neither_rich_nor_yaml(node):
    node.add(make_app())
    modules = imported_modules("--socket", str(node.socket_path), "get", "apps")
    assert "limpet.api.client" in modules
    assert not modules & {"rich", "yaml", "http", "http.client", "subprocess", "asyncio", "ssl"}


def test_version_flag(limpet_):
    assert limpet_("--version").stdout.startswith("limpet ")


@pytest.mark.parametrize(
    ("typed", "meant"), [("gett", "get"), ("lgos", "logs"), ("aply", "apply"), ("remove", None)]
)
def test_unknown_verb_names_the_nearest(limpet_, typed, meant):
    result = limpet_(typed)
    assert result.exit_code == 2
    assert f"error: unknown verb '{typed}'" in result.stderr
    assert (f"did you mean `limpet {meant}`?" in result.stderr) == (meant is not None)


def test_unknown_option_points_to_the_verbs_help(limpet_):
    result = limpet_("get", "--nope")
    assert result.exit_code == 2
    assert "error: No such option" in result.stderr
    assert "see limpet get --help" in result.stderr


@pytest.mark.parametrize(
    ("category", "code"),
    [
        (errors.LimpetError, 1),
        (errors.InvalidInputError, 2),
        (errors.NotFoundError, 3),
        (errors.ConflictError, 4),
        (errors.DeniedError, 5),
        (errors.UnavailableError, 6),
        (errors.TemporaryError, 7),
    ],
)
def test_each_category_has_its_exit_code(limpet_, verb, category, code):
    verb(raiser(category("it broke")))
    result = limpet_("demo")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", "error: it broke\n")


def test_each_problem_has_its_line(limpet_, verb):
    verb(raiser(errors.InvalidInputError("a.yaml:1: x: bad\na.yaml:2: y: worse")))
    assert limpet_("demo").stderr == "error: a.yaml:1: x: bad\nerror: a.yaml:2: y: worse\n"


def test_messages_are_stripped_of_escape_sequences(limpet_, verb):
    verb(raiser(errors.NotFoundError("app \x1b[31mevil\x07 is gone")))
    assert limpet_("demo").stderr == "error: app evil is gone\n"


def test_a_defect_is_told_without_a_traceback(limpet_, verb):
    verb(raiser(ZeroDivisionError("oops")))
    result = limpet_("demo")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: Limpet failed: ZeroDivisionError: oops\n")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), errors.NotFoundError("x")])
def test_debugging_shows_where(limpet_, verb, monkeypatch, error):
    monkeypatch.setenv("LIMPET_DEBUG", "1")
    verb(raiser(error))
    assert limpet_("demo").exception is error


def test_interrupt_is_quiet(limpet_, verb):
    verb(raiser(KeyboardInterrupt()))
    result = limpet_("demo")
    assert (result.exit_code, result.output) == (130, "")


def test_exit_code_of_a_verb_is_the_commands(limpet_, verb):
    verb(raiser(click.exceptions.Exit(42)))
    assert limpet_("demo").exit_code == 42


def test_main_exits(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["limpet", "--version"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0


def test_a_closed_pipe_is_quiet(node):
    node.add(*[make_app(f"app-{number}") for number in range(3000)])
    command = [*COMMAND, "--socket", str(node.socket_path), "get", "apps"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 128 + signal.SIGPIPE


def test_options_before_the_verb_count_unless_it_has_its_own(limpet_, node):
    node.add(make_app("far", namespace="shop"), make_app("near"))
    assert "far" in limpet_("-n", "shop", "get").stdout
    assert "near" in limpet_("-n", "shop", "get", "-n", "default").stdout


def test_socket_comes_from_the_environment(node, monkeypatch):
    monkeypatch.setenv("LIMPET_SOCKET", str(node.socket_path))
    assert CliRunner().invoke(limpet, ["get", "node"]).exit_code == 0


def test_no_node_says_how_to_start_one(limpet_, socket_path):
    result = limpet_("get")
    assert result.exit_code == 6
    assert result.stderr == (
        f"error: no node is listening on {socket_path}; start one with `limpet up`\n"
    )


def test_a_real_terminal_gets_colours_and_a_pipe_does_not(node):
    node.add(make_app())
    command = [*COMMAND, "--socket", str(node.socket_path), "get", "apps"]
    leader, follower = pty.openpty()
    with subprocess.Popen(command, stdout=follower, stderr=follower) as process:
        os.close(follower)
        shown = b""
        try:
            while piece := os.read(leader, 4096):
                shown += piece
        except OSError:
            pass  # Linux ends a terminal without writers by EIO
        assert process.wait() == 0
    os.close(leader)
    assert b"\x1b[32mRunning" in shown
    assert b"\x1b" not in subprocess.run(command, capture_output=True, check=True).stdout
