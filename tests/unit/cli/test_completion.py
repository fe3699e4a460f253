from __future__ import annotations

import pytest

from .fake_node import make_app


@pytest.fixture
def complete(limpet_, socket_path, monkeypatch):
    """What bash would offer after these words, the last one incomplete."""

    def ask(*words):
        monkeypatch.setenv("_LIMPET_COMPLETE", "bash_complete")
        monkeypatch.setenv("LIMPET_SOCKET", str(socket_path))
        monkeypatch.setenv("COMP_WORDS", " ".join(["limpet", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        result = limpet_()
        assert result.exit_code == 0
        return [line.partition(",")[2] for line in result.stdout.splitlines() if line]

    return ask


@pytest.mark.parametrize(
    ("shell", "text"),
    [
        ("bash", "complete -o nosort -F"),
        ("zsh", "#compdef limpet"),
        ("fish", "complete --no-files"),
    ],
)
def test_scripts(limpet_, shell, text):
    result = limpet_("completion", shell)
    assert result.exit_code == 0
    assert text in result.stdout
    assert "_LIMPET_COMPLETE" in result.stdout


def test_unknown_shell(limpet_):
    assert limpet_("completion", "tcsh").exit_code == 2


def test_verbs(complete):
    assert complete("de") == ["describe", "delete", "demo"]


def test_options(complete):
    assert "--follow" in complete("logs", "--fo")


@pytest.mark.parametrize("verb", ["logs", "describe", "delete"])
def test_names_of_apps(complete, node, verb):
    node.add(make_app("hello"), make_app("help"), make_app("other"), make_app("he\x1b[31m"))
    assert complete(verb, "he") == ["hello", "help"]


def test_names_in_the_namespace_that_was_given(complete, node):
    node.add(make_app("here"), make_app("there", namespace="shop"))
    assert complete("logs", "-n", "shop", "") == ["there"]
    assert complete("-n", "shop", "logs", "") == ["there"]


def test_names_that_are_there_are_not_offered_again(complete, node):
    node.add(make_app("a"), make_app("b"))
    assert complete("delete", "a", "") == ["b"]


def test_no_node_is_silent(complete):
    assert complete("logs", "") == []
