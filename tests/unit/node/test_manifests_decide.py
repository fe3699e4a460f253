"""What is to change when files of the manifests folder did."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from limpet.node.manifests.decide import Change, Entry, decide_change
from limpet.store.manifest_files import Held


def key(name, kind="ConfigMap"):
    return (kind, "default", name)


def entry(name, mark="1", *, kind="ConfigMap", file="f"):
    return Entry(key=key(name, kind), object={}, digest=None, mark=mark, where=f"{file}:{name}")


def held(**marks):
    """`name="file/mark"`."""
    return {key(name): Held(*text.split("/")) for name, text in marks.items()}


def decide(files, *, gone=(), before=None, **others):
    before = before or {}
    return decide_change(
        files, gone=set(gone), held=before, existing=others.pop("existing", before.keys()), **others
    )


def applied(change):
    return sorted(each.key[2] for each in change.apply)


def test_new_changed_unchanged_and_left():
    files = {"f": (entry("new"), entry("changed", "2"), entry("same"))}
    change = decide(files, before=held(changed="f/1", same="f/1", left="f/1", other="g/1"))
    assert applied(change) == ["changed", "new"]
    assert change.remove == change.drop == (key("left"),)
    assert change.put == {key("new"): Held("f", "1"), key("changed"): Held("f", "2")}
    assert not change.refused


def test_nothing_new_is_nothing():
    assert decide({"f": (entry("a"),)}, before=held(a="f/1")).is_empty
    assert decide({}) == Change()


def test_a_file_that_is_gone_takes_what_it_had():
    change = decide({}, gone=["f"], before=held(a="f/1", b="g/1"))
    assert change.remove == (key("a"),)
    assert change.drop == (key("a"),)


def test_what_is_not_there_any_more_is_not_removed_again():
    change = decide({}, gone=["f"], before=held(a="f/1"), existing=set())
    assert change.remove == ()
    assert change.drop == (key("a"),)


def test_a_claim_is_let_go():
    claim = key("data", "PersistentVolumeClaim")
    change = decide({}, gone=["f"], before={claim: Held("f", "1")})
    assert change.remove == ()
    assert change.keep == change.drop == (claim,)


def test_a_move_is_no_change_of_the_object():
    change = decide({"g": (entry("a"),)}, gone=["f"], before=held(a="f/1"))
    assert change.apply == change.remove == ()
    assert change.put == {key("a"): Held("g", "1")}
    change = decide({"f": (), "g": (entry("a"),)}, before=held(a="f/1"))
    assert change.apply == change.remove == ()


def test_the_file_that_has_an_object_keeps_it():
    files = {"a": (entry("x", file="a"),), "b": (entry("x", file="b"),)}
    assert set(decide(files).refused) == {"b"}, "at first the first one"
    assert set(decide(files, before=held(x="b/1")).refused) == {"a"}
    change = decide({"a": files["a"]}, before=held(x="b/1"))
    assert change.refused == {"a": "a:x: ConfigMap default/x is already in b; keep one of them"}
    assert change.is_empty


def test_an_object_twice_in_a_file():
    change = decide({"f": (entry("a"), entry("a", "2")), "g": (entry("b"),)})
    assert set(change.refused) == {"f"}
    assert applied(change) == ["b"]


def test_a_refused_file_keeps_everything_it_had():
    # `f` can't have b, so it does not lose a either, and `h` can't have a.
    files = {"f": (entry("b"),), "h": (entry("a"),)}
    change = decide(files, before=held(a="f/1", b="g/1"))
    assert set(change.refused) == {"f", "h"}
    assert change.is_empty


_NAMES = st.sampled_from("abcd")
_PATHS = st.sampled_from("fgh")
_ENTRIES = st.lists(st.builds(entry, _NAMES, st.sampled_from("12")), max_size=3).map(tuple)


@given(
    files=st.dictionaries(_PATHS, _ENTRIES),
    before=st.dictionaries(_NAMES.map(key), st.builds(Held, _PATHS, st.sampled_from("12"))),
    gone=st.sets(_PATHS),
)
def test_whatever_happens(files, before, gone):
    gone -= files.keys()
    change = decide(files, gone=gone, before=before)
    after = {k: v for k, v in before.items() if k not in change.drop} | dict(change.put)
    accepted = files.keys() - change.refused.keys()
    for path in accepted:  # whole
        wanted = {each.key: Held(path, each.mark) for each in files[path]}
        assert {k: v for k, v in after.items() if v.path == path} == wanted
    for path in change.refused:  # or as it was
        assert {k for k, v in after.items() if v.path == path} == {
            k for k, v in before.items() if v.path == path
        }
    assert not any(v.path in gone for v in after.values())
    assert not {each.key for each in change.apply} & {*change.remove, *change.drop}
    # Again, nothing is left to do.
    again = decide({path: files[path] for path in accepted}, gone=gone, before=after)
    assert again.is_empty
