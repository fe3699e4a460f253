"""Kubernetes' own examples, and a reference that tries one rule after the other."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.ingress.table import (
    RouteTable,
    Rule,
    canonical_host,
    canonical_path,
    parse_table,
)


def rule(path: str, *, host: str = "", exact: bool = False, port: int = 1) -> Rule:
    return Rule(
        host=host, path=path, is_exact=exact, target=("127.0.0.1", port), patience_seconds=60
    )


# The table of https://kubernetes.io/docs/concepts/services-networking/ingress/#examples
@pytest.mark.parametrize(
    ("is_exact", "path", "requested", "matches"),
    [
        (False, "/", "/", True),
        (False, "/", "/any/path", True),
        (True, "/foo", "/foo", True),
        (True, "/foo", "/bar", False),
        (True, "/foo", "/foo/", False),
        (True, "/foo/", "/foo", False),
        (False, "/foo", "/foo", True),
        (False, "/foo", "/foo/", True),
        (False, "/foo/", "/foo", True),
        (False, "/foo/", "/foo/", True),
        (False, "/aaa/bb", "/aaa/bbb", False),
        (False, "/aaa/bbb", "/aaa/bbb", True),
        (False, "/aaa/bbb/", "/aaa/bbb", True),
        (False, "/aaa/bbb", "/aaa/bbb/", True),
        (False, "/aaa/bbb", "/aaa/bbb/ccc", True),
        (False, "/aaa/bbb", "/aaa/bbbxyz", False),
        (False, "/aaa", "/ccc", False),
    ],
)
def test_paths_match_as_kubernetes_says(
    is_exact: bool, path: str, requested: str, matches: bool
) -> None:
    table = RouteTable([rule(path, exact=is_exact)])
    assert (table.find(b"x.example", requested.encode()) is not None) is matches


def test_the_longest_prefix_wins_and_exact_before_it() -> None:
    rules = [rule("/foo", exact=True), rule("/aaa/bbb"), rule("/aaa"), rule("/foo"), rule("/")]
    table = RouteTable(rules)
    assert table.find(b"", b"/aaa/bbb/c") is rules[1]
    assert table.find(b"", b"/aaa/ccc") is rules[2]
    assert table.find(b"", b"/ccc") is rules[4]
    assert table.find(b"", b"/foo") is rules[0]
    assert table.find(b"", b"/foo/bar") is rules[3]


@pytest.mark.parametrize(
    ("authority", "matches"),
    [
        (b"bar.foo.com", True),
        (b"BAR.Foo.com:8080", True),
        (b"bar.foo.com.", True),
        (b"baz.bar.foo.com", False),
        (b"foo.com", False),
        (b".foo.com", False),
        (b"", False),
    ],
)
def test_a_wildcard_stands_for_one_label(authority: bytes, matches: bool) -> None:
    table = RouteTable([rule("/", host="*.foo.com")])
    assert (table.find(authority, b"/") is not None) is matches


def test_hosts_are_tried_from_the_most_specific() -> None:
    rules = [
        rule("/exact", host="a.foo.com"),
        rule("/wild", host="*.foo.com"),
        rule("/"),
    ]
    table = RouteTable(rules)
    assert table.find(b"a.foo.com", b"/exact") is rules[0]
    assert table.find(b"a.foo.com", b"/wild") is rules[1]
    assert table.find(b"a.foo.com", b"/other") is rules[2]
    assert table.find(b"b.foo.com", b"/exact") is rules[2]


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        (b"/", b"/"),
        (b"/a/b", b"/a/b"),
        (b"/a/b/", b"/a/b/"),
        (b"/%61%2Fb", b"/a/b"),
        (b"/%zz", b"/%zz"),
        (b"//a///b//", b"/a/b/"),
        (b"/./a/./b", b"/a/b"),
        (b"/a/../b", b"/b"),
        (b"/a/%2e%2e/b", b"/b"),
        (b"/../../b", b"/b"),
        (b"/a/..", b"/"),
        (b"/a/b/..", b"/a/"),
        (b"/a/b/.", b"/a/b/"),
        (b"/.hidden/..a", b"/.hidden/..a"),
        (b"/caf%C3%A9", "/café".encode()),
    ],
)
def test_canonical_path(path: bytes, canonical: bytes) -> None:
    assert canonical_path(path) == canonical


@pytest.mark.parametrize("requested", [b"/%61dmin", b"//admin", b"/x/../admin", b"/./admin/"])
def test_no_spelling_goes_round_a_rule(requested: bytes) -> None:
    rules = [rule("/admin"), rule("/")]
    assert RouteTable(rules).find(b"", requested) is rules[0]


@pytest.mark.parametrize(
    ("authority", "host"),
    [(b"A.b", b"a.b"), (b"a:80", b"a"), (b"[::1]:80", b"[::1]"), (b"[::1]", b"[::1]"), (b"", b"")],
)
def test_canonical_host(authority: bytes, host: bytes) -> None:
    assert canonical_host(authority) == host


@pytest.mark.parametrize("path", [b"*", b"", b"a.example:443"])
def test_what_is_no_path_matches_nothing(path: bytes) -> None:
    assert RouteTable([rule("/")]).find(b"", path) is None


def test_a_path_of_many_elements_is_cheap() -> None:
    table = RouteTable([rule("/a/b/c")])
    assert table.find(b"", b"/a" * 16_000) is None
    assert table.find(b"", b"/a/b/c" + b"/d" * 16_000) is not None


def test_parse_table() -> None:
    table = parse_table(
        json.dumps(
            [
                ["", "/a", True, "127.0.0.1:80", 61.5],
                ["x.y", "/", False, "[::1]:90", 60],
                ["", "/b", False, "", 60],
            ]
        )
    )
    first = table.find(b"", b"/a")
    assert first is not None
    assert (first.target, first.patience_seconds) == (("127.0.0.1", 80), 61.5)
    second = table.find(b"X.Y", b"/")
    assert second is not None
    assert second.target == ("::1", 90)
    third = table.find(b"", b"/b")
    assert third is not None
    assert third.target is None


# A straightforward reference: Kubernetes' words, one rule after the other.


def matches_host(rule_host: str, host: str) -> bool:
    if rule_host.startswith("*."):
        labels = host.split(".")
        return bool(labels[0]) and ".".join(labels[1:]) == rule_host[2:]
    return rule_host in ("", host)


def matches_path(entry: Rule, path: str) -> bool:
    if entry.is_exact:
        return path == entry.path
    wanted = [element for element in entry.path.split("/") if element]
    return [element for element in path.split("/") if element][: len(wanted)] == wanted


def specificity(entry: Rule) -> tuple[int, bool, int]:
    host = 2 if not entry.host else int(entry.host.startswith("*."))
    elements = len([element for element in entry.path.split("/") if element])
    return host, not entry.is_exact, -elements


def reference(rules: list[Rule], host: str, path: str) -> Rule | None:
    fitting = [r for r in rules if matches_host(r.host, host) and matches_path(r, path)]
    return min(fitting, key=specificity, default=None)


hosts = st.lists(st.sampled_from(["a", "b", "foo"]), min_size=1, max_size=3).map(".".join)
rule_hosts = st.one_of(st.just(""), hosts, hosts.map("*.".__add__))
paths = st.tuples(
    st.lists(st.sampled_from(["a", "b", "ab", "a.b"]), max_size=4), st.booleans()
).map(lambda p: "/" + "/".join(p[0]) + ("/" if p[0] and p[1] else ""))
rules_of = st.lists(
    st.builds(
        Rule,
        host=rule_hosts,
        path=paths,
        is_exact=st.booleans(),
        target=st.none(),
        patience_seconds=st.just(60.0),
    ),
    max_size=12,
)


@given(rules=rules_of, host=hosts, path=paths)
def test_the_table_agrees_with_the_reference(rules: list[Rule], host: str, path: str) -> None:
    found = RouteTable(rules).find(host.encode(), path.encode())
    assert found is reference(rules, host, path)


@given(path=st.binary(max_size=30).map(b"/".__add__))
def test_a_canonical_path_is_one_path(path: bytes) -> None:
    once = canonical_path(path)
    assert once.startswith(b"/")
    if b"%" not in once:
        assert canonical_path(once) == once
    if b"%" in path:
        return
    segments = once.split(b"/")[1:]
    assert not {b".", b".."} & set(segments)
    assert b"" not in segments[:-1] or b"//" not in path
