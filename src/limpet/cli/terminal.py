"""What a terminal needs that a pipe doesn't: clean text, one changing status line, progress.

Names, messages and logs come from apps: in a terminal their escape sequences could move the
cursor, set the title or fake output, so nothing of theirs is written there raw.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

# ECMA-48: CSI and OSC/DCS/PM/APC/SOS sequences whole, then lone escapes.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*"
    r"(?:\x07|\x1b\\|\x9c)?|\x1b[ -/]*[0-~]?"
)
# C0 without tab and newline, DEL, C1, and the marks that reorder the text that people see.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_BAR_WIDTH = 24


def is_terminal(stream: TextIO) -> bool:
    """Whether people read the stream, on something that can be drawn on."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """The text without escape sequences and control characters; tabs and newlines stay."""
    return _CONTROLS.sub("", _SEQUENCES.sub("", text))


def one_line(text: str) -> str:
    """`printable`, with newlines and tabs as spaces."""
    return printable(text.replace("\n", " ").replace("\t", " "))


def styled(text: str, *, colour: str | None = None, is_bold: bool = False) -> str:
    """The text in a colour, which click leaves out in a pipe; NO_COLOR is honoured."""
    if os.environ.get("TERM") == "dumb":
        return text
    chosen = None if os.environ.get("NO_COLOR") else colour
    return click.style(text, fg=chosen, bold=is_bold or None)


def notice(text: str) -> None:
    """Tell people something that is not the command's result: on stderr."""
    click.echo(printable(text), err=True)


def warning(text: str) -> None:
    """Tell people what they should know, on stderr."""
    click.echo(f"{styled('warning:', colour='yellow')} {one_line(text)}", err=True)


class StatusLine:
    """One line on stderr that changes in place; in a pipe it writes nothing.

    Use as a context manager: the line is gone at the end.
    """

    def __init__(self) -> None:
        self._is_live = is_terminal(sys.stderr)
        self._frame = 0
        self._drawn_at = 0.0
        self._text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.clear()

    def show(self, text: str) -> None:
        """Draw the text, at most ten times a second unless it changed."""
        now = time.monotonic()
        if not self._is_live or (text == self._text and now - self._drawn_at < 0.1):
            return
        self._text, self._drawn_at = text, now
        self._frame = (self._frame + 1) % len(_FRAMES)
        columns = shutil.get_terminal_size().columns
        line = f"{_FRAMES[self._frame] if _is_unicode() else '*'} {one_line(text)}"[: columns - 1]
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()

    def show_progress(self, text: str, *, done: int, total: int) -> None:
        """Draw a bar, at most ten times a second."""
        if time.monotonic() - self._drawn_at < 0.1 and done < total:
            return
        share = done / total if total else 1.0
        full = round(share * _BAR_WIDTH)
        filled, empty = ("█", "░") if _is_unicode() else ("#", ".")
        bar = filled * full + empty * (_BAR_WIDTH - full)
        sizes = f"{done / (1 << 20):.1f}/{total / (1 << 20):.1f} MiB"
        self.show(f"{text} {bar} {share:4.0%}  {sizes}")

    def clear(self) -> None:
        if self._text:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._text = ""


def _is_unicode() -> bool:
    return (sys.stderr.encoding or "").lower().startswith("utf")
