from __future__ import annotations

import io
import json

from hypothesis import given
from hypothesis import strategies as st

from limpet.cli.render import Column, Styled, plain_table, rich_table, write_json, write_yaml

COLUMNS = [
    Column("NAME"),
    Column("COUNT", is_number=True),
    Column("AGE", rank=2),
    Column("KIND", rank=1),
    Column("MESSAGE", is_flexible=True),
]
ROWS = [
    ["hello", "1", "3m", "Pod", "short"],
    [Styled("much-longer-name", "red"), "1000", "2d5h", "Job", "a message of many words, " * 3],
]


def shown(columns, rows, *, width, **options):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False)
    console.print(rich_table(columns, rows, width=width, **options), crop=False, no_wrap=True)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_plain_table_aligns_and_leaves_no_trailing_blanks():
    assert plain_table(COLUMNS[:3], [row[:3] for row in ROWS]) == [
        "NAME               COUNT   AGE",
        "hello                  1   3m",
        "much-longer-name    1000   2d5h",
    ]


def test_both_tables_say_the_same_when_there_is_room():
    assert shown(COLUMNS, ROWS, width=200) == plain_table(COLUMNS, ROWS)


def test_narrow_terminals_lose_ranked_columns_and_no_names():
    lines = shown(COLUMNS, ROWS, width=56)
    assert lines[0] == "NAME               COUNT   MESSAGE"
    assert "much-longer-name" in lines[2]
    lines = shown(COLUMNS, ROWS, width=64)
    assert lines[0] == "NAME               COUNT   KIND   MESSAGE"


def test_too_narrow_terminals_still_get_whole_names():
    lines = shown(COLUMNS, ROWS, width=20)
    assert "much-longer-name" in lines[2]
    assert "hello" in lines[1]


def test_cells_are_one_line_without_escape_sequences():
    lines = plain_table([Column("A"), Column("B")], [["x\ny\x1b[31m", "\x07z"]])
    assert lines[1] == "x y   z"


def test_markup_in_names_is_not_markup():
    assert shown([Column("A")], [["[red]x[/red]"]], width=80)[1] == "[red]x[/red]"


def test_indent():
    assert plain_table([Column("A")], [["x"]], indent=2) == ["  A", "  x"]
    assert shown([Column("A")], [["x"]], width=80, indent=2) == ["  A", "  x"]


@given(
    st.lists(
        st.tuples(st.text("abc-", max_size=8), st.text("01", max_size=8)), min_size=1, max_size=5
    )
)
def test_columns_of_plain_tables_start_where_their_titles_do(rows):
    lines = plain_table([Column("NAME"), Column("VALUE")], rows)
    at = lines[0].index("VALUE")
    assert [line[at:] for line in lines[1:]] == [value for _, value in rows]


def test_json_keeps_what_people_write(capsys):
    write_json({"name": "grüße\x1b"})
    text = capsys.readouterr().out
    assert "grüße" in text
    assert json.loads(text) == {"name": "grüße\x1b"}


def test_yaml_has_no_anchors(capsys):
    labels = {"app": "x"}
    write_yaml([{"a": labels, "b": labels}, {"c": 1}])
    assert capsys.readouterr().out == "a:\n  app: x\nb:\n  app: x\n---\nc: 1\n"
