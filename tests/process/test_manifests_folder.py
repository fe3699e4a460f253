"""A node that follows a folder of manifests: what comes, changes, moves, breaks and goes."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml
from guests import build_guest
from running_node import RunningNode, wait_for
from workloads import http_app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Json = dict[str, object]


class Followed:
    """A folder and the node that follows it."""

    def __init__(self, node: RunningNode, path: Path) -> None:
        self.node = node
        self.path = path

    def write(self, name: str, *objects: Json) -> Path:
        """Put a manifest into place as editors and git do: whole, by a rename."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        staged = file.with_name(f".{file.name}.tmp")
        staged.write_text(yaml.safe_dump_all(objects))
        return staged.replace(file)

    def module(self, name: str, guest: str) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        staged = file.with_name(f".{file.name}.tmp")
        shutil.copyfile(build_guest(guest), staged)
        staged.replace(file)

    def names(self) -> set[str]:
        return {f"{item['kind']}/{item['name']}" for item in self.node.client.objects()}

    def wait_names(self, *names: str) -> None:
        wait_for(lambda: self.names() == set(names), f"{names}, not {self.names()}")

    def owner(self, kind: str, name: str) -> str | None:
        [found] = self.node.client.objects(kind=kind, name=name)
        return found["managed_by"]

    def generation(self, name: str) -> int:
        [found] = self.node.client.objects(name=name)
        return found["generation"]

    def status(self) -> dict:
        return self.node.client.node()["manifests"]

    def wait_problem(self, text: str) -> None:
        wait_for(
            lambda: any(text in each["message"] for each in self.status()["problems"]),
            f"the problem {text!r}, not {self.status()}",
        )

    def wait_event(self, reason: str, text: str = "") -> None:
        def is_told() -> bool:
            return any(text in event["message"] for event in self.node.events(reason=reason))

        wait_for(is_told, f"the event {reason}: {text}, not {self.node.events()}")

    def wait_applied(self) -> None:
        """Wait until a change that is made now has been seen: one look at the folder has ended."""
        marker = f"marker-{os.urandom(4).hex()}"
        self.write(f"{marker}.yaml", settings(marker))
        wait_for(lambda: f"ConfigMap/{marker}" in self.names(), "the marker")
        (self.path / f"{marker}.yaml").unlink()
        wait_for(lambda: f"ConfigMap/{marker}" not in self.names(), "the marker's end")


def settings(name: str, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def claim(name: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "16Mi"}},
        },
    }


@pytest.fixture
def make_followed(make_node: Callable[..., RunningNode], tmp_path: Path) -> Callable[..., Followed]:
    def make(**environment: str) -> Followed:
        path = tmp_path / "manifests"
        node = make_node(
            LIMPET_NODE_MANIFESTS=str(path),
            LIMPET_NODE_RESYNC_SECONDS="0.5",
            **{"LIMPET_NODE_MANIFESTS_RESCAN_SECONDS": "3600", **environment},
        )
        return Followed(node, path)

    return make


@pytest.fixture
def followed(make_followed: Callable[..., Followed]) -> Iterator[Followed]:
    made = make_followed()
    made.path.mkdir()
    made.node.start()
    yield made
    if made.node.process is not None:
        made.node.stop()


def test_an_app_comes_changes_and_goes_with_its_file(followed: Followed) -> None:
    followed.module("shop/hello.wasm", "echo")
    followed.write("shop/app.yaml", http_app("hello", "hello"), settings("words", a="b"))
    followed.wait_names("Deployment/hello", "ConfigMap/words")
    followed.node.wait_ready("hello")
    assert followed.node.request("hello").status == 200
    assert followed.owner("Deployment", "hello") == "shop/app.yaml"
    assert followed.node.status("hello")["managed_by"] == "shop/app.yaml"
    pids = followed.node.pids("hello")

    # An object leaves the file; the app beside it is not touched.
    followed.write("shop/app.yaml", http_app("hello", "hello"))
    followed.wait_names("Deployment/hello")
    assert followed.node.pids("hello") == pids

    # Another module under the same name is another app.
    followed.module("shop/hello.wasm", "big")
    wait_for(lambda: followed.generation("hello") == 2, "the new module")
    wait_for(lambda: not set(pids) & set(followed.node.pids("hello")), "the old one's end")
    assert followed.node.request("hello").status == 200

    shutil.rmtree(followed.path / "shop")
    followed.wait_names()
    wait_for(lambda: not followed.node.pids("hello"), "the app's end")


def test_an_object_that_moves_to_another_file_is_not_restarted(followed: Followed) -> None:
    followed.module("hello.wasm", "echo")
    followed.write("a.yaml", http_app("hello", "hello"))
    wait_for(lambda: "Deployment/hello" in followed.names(), "the app")
    followed.node.wait_ready("hello")
    pids = followed.node.pids("hello")
    (followed.path / "a.yaml").rename(followed.path / "b.yaml")
    wait_for(lambda: followed.owner("Deployment", "hello") == "b.yaml", "the new owner")
    assert followed.generation("hello") == 1
    # A copy beside it has to wait; when the first one goes, it has the object at once.
    followed.write("c.yaml", http_app("hello", "hello"))
    followed.wait_problem("Deployment default/hello is already in b.yaml; keep one of them")
    (followed.path / "b.yaml").unlink()
    wait_for(lambda: followed.owner("Deployment", "hello") == "c.yaml", "the third owner")
    assert followed.status()["problems"] == []
    assert followed.generation("hello") == 1
    assert followed.node.pids("hello") == pids


def test_a_broken_file_leaves_its_objects_as_they_were(followed: Followed) -> None:
    followed.write("app.yaml", settings("one"), settings("two"))
    followed.wait_names("ConfigMap/one", "ConfigMap/two")
    (followed.path / "app.yaml").write_text("kind: ConfigMap\napiVersion: v1\nmetadata: {nam")
    followed.wait_problem("app.yaml:4: is not YAML")
    followed.wait_applied()
    assert followed.names() == {"ConfigMap/one", "ConfigMap/two"}
    assert len(followed.node.events(reason="ManifestInvalid")) == 1, "told once"
    # Nothing in it, an unknown field, too much of it: the same.
    for content, why in (
        ("", "app.yaml:1: has no object in it"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\ndate: {}\n", "app.yaml:4: date"),
        ("#" * (5 << 20), "app.yaml:1: is larger than 4Mi"),
    ):
        (followed.path / "app.yaml").write_text(content)
        followed.wait_problem(why)
        assert followed.names() == {"ConfigMap/one", "ConfigMap/two"}
    followed.write("app.yaml", settings("two", now="better"))
    followed.wait_names("ConfigMap/two")
    assert followed.status()["problems"] == []


def test_a_file_is_applied_whole_or_not_at_all(followed: Followed) -> None:
    followed.node.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "taken"},
            "spec": {"containers": [{"name": "a", "image": "./echo.wasm"}]},
        }
    )
    followed.module("hello.wasm", "echo")
    followed.write("bad.yaml", settings("half"), http_app("taken", "hello"))
    followed.write("good.yaml", settings("whole"))
    followed.wait_problem("has the name of an existing Pod")
    followed.wait_names("Pod/taken", "ConfigMap/whole")


def test_a_file_that_is_being_written_is_not_read(followed: Followed) -> None:
    followed.write("app.yaml", settings("one"), settings("two"))
    followed.wait_names("ConfigMap/one", "ConfigMap/two")
    with (followed.path / "app.yaml").open("w") as file:
        file.write(yaml.safe_dump(settings("one")))
        file.flush()  # whole by chance, and not finished
        followed.wait_applied()
        assert followed.names() == {"ConfigMap/one", "ConfigMap/two"}
        file.write("---\n" + yaml.safe_dump(settings("three")))
    followed.wait_names("ConfigMap/one", "ConfigMap/three")


def test_what_is_no_manifest_is_ignored(followed: Followed) -> None:
    hidden = yaml.safe_dump(settings("hidden"))
    for name in (".git/config.yaml", ".app.yaml.swp", "app.yaml~", ".#app.yaml", "#app.yaml#",
                 ".hidden.yaml", "README.md"):  # fmt: skip
        file = followed.path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(hidden)
    followed.write("a/b/c/seen.json", settings("seen"))
    followed.wait_names("ConfigMap/seen")
    assert followed.status()["problems"] == []


def test_nothing_leads_out_of_the_folder(followed: Followed, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copyfile(build_guest("echo"), outside / "echo.wasm")
    (outside / "app.yaml").write_text(yaml.safe_dump(settings("outside")))
    (followed.path / "link.yaml").symlink_to(outside / "app.yaml")
    (followed.path / "folder").symlink_to(outside)
    (followed.path / "echo.wasm").symlink_to(outside / "echo.wasm")
    os.mkfifo(followed.path / "pipe.yaml")
    followed.write("by-link.yaml", http_app("by-link", "echo"))
    up = http_app("up", "x")
    pod = up["spec"]["template"]["spec"]
    pod["containers"][0]["image"] = "../outside/echo.wasm"
    followed.write("up.yaml", up)
    for text in ("can't read echo.wasm: it leads out", "can't read ../outside/echo.wasm: it leads"):
        followed.wait_problem(text)
    told = {each["file"]: each["message"] for each in followed.status()["problems"]}
    assert told["link.yaml"] == "it leads out of the manifests folder"
    assert told["pipe.yaml"] == "it is not a regular file"
    assert set(told) == {"link.yaml", "pipe.yaml", "by-link.yaml", "up.yaml"}
    assert followed.names() == set()
    # A link within the folder is as good as a file.
    followed.module("real/echo.wasm", "echo")
    (followed.path / "echo.wasm").unlink()
    (followed.path / "echo.wasm").symlink_to("real/echo.wasm")
    followed.wait_names("Deployment/by-link")


def test_a_module_that_comes_after_its_manifest(followed: Followed) -> None:
    followed.write("app.yaml", http_app("late", "late"))
    followed.wait_problem("app.yaml:")
    followed.module("late.wasm", "echo")
    followed.wait_names("Deployment/late")
    followed.node.wait_ready("late")


def test_a_folder_that_goes_takes_nothing_with_it(followed: Followed) -> None:
    followed.write("app.yaml", settings("one"))
    followed.wait_names("ConfigMap/one")
    away = followed.path.with_name("away")
    followed.path.rename(away)
    followed.wait_event("ManifestsGone", "is not there")
    followed.path.mkdir()  # the mount point of a stick that was pulled out
    followed.wait_event("ManifestsGone", "taken for a folder whose file system is not mounted")
    assert followed.names() == {"ConfigMap/one"}
    followed.node.stop()
    followed.node.start()  # it knows no better after a restart
    wait_for(lambda: "not mounted" in followed.status()["message"], "the trouble")
    assert followed.names() == {"ConfigMap/one"}
    followed.path.rmdir()
    away.rename(followed.path)
    followed.write("app.yaml", settings("two"))
    followed.wait_names("ConfigMap/two")
    assert followed.status()["message"] == ""


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="needs root and mount to be a stick"
)
def test_a_stick_that_is_pulled_out_and_put_in_again(
    make_followed: Callable[..., Followed], tmp_path: Path
) -> None:
    followed = make_followed()
    image, point = tmp_path / "stick", tmp_path / "media"
    image.mkdir()
    point.mkdir()
    mounted: list[Path] = []

    def mount(*words: object, at: Path) -> None:
        subprocess.run(["mount", *map(str, words), at], check=True, capture_output=True)
        mounted.append(at)

    try:
        # What the device mounts and unmounts is to reach the node's own mount namespace.
        mount("--bind", point, at=point)
        subprocess.run(["mount", "--make-shared", point], check=True)
        followed.path.symlink_to(point / "manifests")
        (point / "manifests").mkdir()
        mount("--bind", image, at=point / "manifests")
        (image / "app.yaml").write_text(yaml.safe_dump(settings("one")))
        followed.node.start()
        followed.wait_names("ConfigMap/one")
        subprocess.run(["umount", mounted[-1]], check=True)
        mounted.pop()
        (point / "manifests" / "hint.yaml.txt").touch()  # an event below the mount point
        followed.path.with_name("manifests.tmp").symlink_to(point / "manifests")
        followed.path.with_name("manifests.tmp").replace(followed.path)  # so that it looks at once
        followed.wait_event("ManifestsGone", "not mounted")
        assert followed.names() == {"ConfigMap/one"}
        (image / "app.yaml").write_text(yaml.safe_dump(settings("two")))
        mount("--bind", image, at=point / "manifests")
        followed.wait_names("ConfigMap/two")
        followed.node.stop()
    finally:
        followed.node.kill()
        for path in reversed(mounted):
            subprocess.run(["umount", "-l", path], check=False)


def test_what_was_done_by_hand_stays_until_the_file_says_something_new(
    followed: Followed,
) -> None:
    node = followed.node
    [created] = node.apply(settings("mine", by="hand"))
    assert created["warnings"] == []
    followed.write("app.yaml", settings("mine", by="file"), settings("other"))
    followed.wait_names("ConfigMap/mine", "ConfigMap/other")
    followed.wait_event("ManifestTookOver", "app.yaml")
    [changed] = node.apply(settings("mine", by="hand again"))
    assert changed["warnings"][0].startswith("managed by app.yaml of the manifests folder")
    [warning] = node.client.delete_object(kind="ConfigMap", namespace="default", name="other")
    assert warning.startswith("managed by app.yaml")

    def by() -> str:
        [found] = node.client.objects(name="mine")
        return found["object"]["data"]["by"]

    node.restart()
    followed.wait_applied()
    assert by() == "hand again"
    followed.write("app.yaml", settings("mine", by="file 2"), settings("other"))
    wait_for(lambda: by() == "file 2", "what the file says now")
    assert followed.names() == {"ConfigMap/mine"}, "a deleted object needs a new word, too"
    followed.write("app.yaml", settings("mine", by="file 2"), settings("other", new="word"))
    followed.wait_names("ConfigMap/mine", "ConfigMap/other")


def test_a_claim_stays_when_its_file_goes(followed: Followed) -> None:
    followed.write("data.yaml", claim("readings"), settings("one"))
    followed.wait_names("PersistentVolumeClaim/readings", "ConfigMap/one")
    (followed.path / "data.yaml").unlink()
    followed.wait_names("PersistentVolumeClaim/readings")
    followed.wait_event("ManifestLetGo", "it stays")
    assert followed.owner("PersistentVolumeClaim", "readings") is None


def test_a_node_that_was_away_catches_up(followed: Followed) -> None:
    followed.write("one.yaml", settings("one"))
    followed.write("two.yaml", settings("two"))
    followed.wait_names("ConfigMap/one", "ConfigMap/two")
    followed.node.kill()
    (followed.path / "one.yaml").unlink()
    followed.write("three.yaml", settings("three"))
    followed.node.start()
    followed.wait_names("ConfigMap/two", "ConfigMap/three")
    assert followed.generation("two") == 1


def test_the_slow_look_finds_what_nobody_told(make_followed: Callable[..., Followed]) -> None:
    # As on a network file system: the folder is there, and what changes in it is not heard.
    followed = make_followed(LIMPET_NODE_MANIFESTS_RESCAN_SECONDS="0.3")
    real = followed.path.with_name("real")
    (real / "inner").mkdir(parents=True)
    followed.path.symlink_to(real)
    followed.node.start()
    followed.write("inner/app.yaml", settings("one"))
    followed.wait_names("ConfigMap/one")
    # A checkout that is exchanged as a whole, as git-sync does.
    other = followed.path.with_name("other")
    other.mkdir()
    (other / "app.yaml").write_text(yaml.safe_dump(settings("two")))
    link = followed.path.with_name("link")
    link.symlink_to(other)
    link.replace(followed.path)
    followed.wait_names("ConfigMap/two")
    followed.node.stop()


def test_a_git_checkout(followed: Followed) -> None:
    def git(*words: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
        subprocess.run(
            ["git", "-C", str(followed.path), *identity, *words], check=True, capture_output=True
        )

    if shutil.which("git") is None:
        pytest.skip("needs git")
    git("init")
    followed.write("a.yaml", settings("one", at="first"))
    git("add", ".")
    git("commit", "-m", "first")
    followed.write("a.yaml", settings("one", at="second"))
    followed.write("b/c.yaml", settings("two"))
    git("add", ".")
    git("commit", "-m", "second")
    followed.wait_names("ConfigMap/one", "ConfigMap/two")
    git("checkout", "HEAD~1")
    followed.wait_names("ConfigMap/one")
    [found] = followed.node.client.objects(name="one")
    assert found["object"]["data"] == {"at": "first"}
    git("checkout", "main")
    followed.wait_names("ConfigMap/one", "ConfigMap/two")


def test_many_files_at_once(followed: Followed) -> None:
    staged = followed.path.with_name("staged")
    staged.mkdir()
    for number in range(500):
        (staged / f"{number}.yaml").write_text(yaml.safe_dump(settings(f"many-{number}")))
    staged.rename(followed.path / "many")
    wait_for(lambda: len(followed.names()) == 500, "five hundred objects")
    [told] = followed.node.events(reason="ManifestsApplied")
    assert told["message"].endswith(": 500 created"), "one change"
    (followed.path / "many").rename(staged)
    followed.wait_names()


def test_a_kind_is_exchanged_in_one_change(followed: Followed) -> None:
    followed.module("hello.wasm", "echo")
    deployment = http_app("hello", "hello")
    followed.write("app.yaml", deployment)
    wait_for(lambda: "Deployment/hello" in followed.names(), "the deployment")
    followed.node.wait_ready("hello")
    pod = {**deployment["spec"]["template"], "apiVersion": "v1", "kind": "Pod"}
    pod["metadata"] = {**pod["metadata"], "name": "hello"}
    followed.write("app.yaml", pod)
    followed.wait_names("Pod/hello")
    wait_for(lambda: followed.node.status("hello")["kind"] == "Pod", "the pod's status")
    followed.node.wait_ready("hello")
    assert followed.node.request("hello").status == 200


def test_a_bomb_harms_no_other_file(followed: Followed) -> None:
    bomb = "a: &a [" + "x," * 100_000 + "]\n"
    followed.write("good.yaml", settings("good"))
    (followed.path / "bomb.yaml").write_text(bomb * 3)
    followed.wait_names("ConfigMap/good")
    followed.wait_problem("bomb.yaml:")
