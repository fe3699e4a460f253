"""Paths that stay where they belong, also while somebody moves things around."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limpet.wasi import errnos, paths
from limpet.wasi.errnos import WasiError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "file").write_text("file")
    (root / "up").symlink_to("..")
    (root / "out").symlink_to("../secret")
    (root / "absolute").symlink_to(tmp_path / "secret")
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"a", (b"", b"a")),
        (b"a/b", (b"a", b"b")),
        (b"a/b/", (b"a/b/", b".")),
        (b"a/.", (b"a/.", b".")),
        (b".", (b"", b".")),
        (b"..", (b"..", b".")),
        (b"a/..", (b"a/..", b".")),
        (b"../a", (b"..", b"a")),
        (b"/a", (b"/", b"a")),
        (b"/", (b"/", b".")),
    ],
)
def test_splitting(path: bytes, expected: tuple[bytes, bytes]) -> None:
    assert paths.split_parent(path) == expected


@pytest.mark.parametrize(
    "path", [b"..", b"../secret", b"up/secret", b"out", b"absolute", b"/etc", b"d/../../secret"]
)
def test_escapes_are_refused(inside: int, path: bytes) -> None:
    with pytest.raises(WasiError) as caught:
        paths.open_beneath(inside, path, os.O_RDONLY)
    assert caught.value.number == errnos.PERM


PART = st.sampled_from(
    [b"d", b"up", b"out", b"absolute", b"..", b".", b"", b"file", b"new", b"\xff", b"a\0b"]
)


@settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(PART, max_size=5).map(b"/".join), st.lists(PART, max_size=4).map(b"/".join))
def test_nothing_outside_changes(inside: int, tmp_path: Path, path: bytes, other: bytes) -> None:
    for call in (
        lambda: paths.create_directory(inside, path),
        lambda: paths.symlink(other, inside, path),
        lambda: paths.link(inside, other, inside, path),
        lambda: paths.rename(inside, path, inside, other),
        lambda: paths.unlink(inside, path),
        lambda: paths.remove_directory(inside, path),
        lambda: paths.set_times(inside, path, (1, 0), (1, 0), is_followed=True),
        lambda: os.close(paths.open_beneath(inside, path, os.O_WRONLY | os.O_CREAT, 0o600)),
    ):
        with contextlib.suppress(OSError, WasiError):
            call()
    assert sorted(os.listdir(tmp_path)) == ["root", "secret"]
    assert (tmp_path / "secret").read_text() == "secret"
    assert (tmp_path / "secret").stat().st_mtime > 1000


def test_swapping_a_directory_for_a_link_while_it_is_used(inside: int, tmp_path: Path) -> None:
    """The classical race: it can fail or succeed inside, never reach outside."""
    root = tmp_path / "root"
    (root / "link").symlink_to("..")
    (root / "d" / "secret").write_text("inside")
    is_over = threading.Event()

    def swap() -> None:
        while not is_over.is_set():
            for source, target in (("d", "kept"), ("link", "d"), ("d", "link"), ("kept", "d")):
                os.rename(root / source, root / target)

    thread = threading.Thread(target=swap)
    thread.start()
    reads = 0
    try:
        for _ in range(3000):
            try:
                descriptor = paths.open_beneath(inside, b"d/secret", os.O_RDONLY)
            except (OSError, WasiError):
                continue
            reads += 1
            assert os.read(descriptor, 10) == b"inside"
            os.close(descriptor)
    finally:
        is_over.set()
        thread.join()
    assert reads
