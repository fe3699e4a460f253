from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.cli import terminal as terminal_module
from limpet.cli.terminal import StatusLine, is_terminal, one_line, printable


class Tty(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("plain text", "plain text"),
        ("tab\tand\nnewline", "tab\tand\nnewline"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[1;1Hcleared", "cleared"),
        ("\x1b]0;a title\x07text", "text"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b31mC1 red", "C1 red"),
        ("\x1bcreset", "reset"),
        ("back\x08\x08\x7fspace\r", "backspace"),
        ("\u202egnp.exe", "gnp.exe"),
        ("grüße 👩‍💻 漢字", "grüße 👩‍💻 漢字"),
        ("lonely \x1b", "lonely "),
    ],
)
def test_printable(raw, clean):
    assert printable(raw) == clean


@given(st.text(st.characters(codec="utf-8")))
def test_nothing_that_drives_a_terminal_survives(text):
    assert not re.search(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", printable(text)
    )


@given(st.text(st.characters(codec="utf-8")))
def test_one_line_is_one_line(text):
    assert not set(one_line(text)) & set("\n\t\r")


@given(st.text("ab \n\t漢é"))
def test_clean_text_stays(text):
    assert printable(text) == text


def test_a_dumb_terminal_is_treated_as_a_pipe(monkeypatch):
    assert is_terminal(Tty())
    monkeypatch.setenv("TERM", "dumb")
    assert not is_terminal(Tty())


def test_status_line_is_gone_at_the_end(monkeypatch):
    stream = Tty()
    monkeypatch.setattr("sys.stderr", stream)
    with StatusLine() as status:
        status.show("starting \x1b[31mhello")
        assert "starting hello" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_status_line_stays_within_the_terminal(monkeypatch):
    stream = Tty()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("COLUMNS", "20")
    StatusLine().show("x" * 100)
    assert len(stream.getvalue().removeprefix("\r\x1b[K")) == 19


def test_status_line_is_silent_in_a_pipe(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with StatusLine() as status:
        status.show("starting")
        status.show_progress("uploading", done=1, total=2)
    assert stream.getvalue() == ""


def test_progress_draws_a_bar(monkeypatch):
    stream = Tty()
    monkeypatch.setattr("sys.stderr", stream)
    StatusLine().show_progress("uploading app.wasm", done=1 << 20, total=2 << 20)
    assert "█" * 12 + "░" * 12 + "  50%  1.0/2.0 MiB" in stream.getvalue()


def test_colours_honour_no_color(monkeypatch):
    assert "\x1b[31m" in terminal_module.styled("x", colour="red")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in terminal_module.styled("x", colour="red")
