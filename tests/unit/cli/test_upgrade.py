"""`limpet upgrade` with a node that only answers; tests/process/test_upgrade.py has a real one."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

from limpet.bundle.layout import ObjectEntry
from limpet.cli import upgrade as upgrade_module
from limpet.cli.upgrade_sources import UntrustedWheelsError, open_source
from limpet.errors import NotFoundError
from limpet.upgrade.layout import Installed, Prefix


@pytest.fixture
def prefix(tmp_path, node):
    """An installation with two versions, the older one current, that the node runs from."""
    made = Prefix(tmp_path / "opt")
    for version in ("0.1.0", "0.2.0"):
        add(made, version)
    made.switch("0.2.0")
    made.switch("0.1.0")
    node.upgrade["prefix"] = str(made.path)
    return made


def add(prefix, version, schema=2):
    prefix.folder(version).mkdir(parents=True, exist_ok=True)
    prefix.finish(Installed(version=version, schema=schema, handover=1))


def ended(state, reason=""):
    """Return what a node does that has tried a version."""

    def try_version(upgrade, version):
        upgrade["last"] = {
            "state": state,
            "version": version,
            "previous": "0.1.0",
            "started_at": 1.0,
            "ended_at": 2.0,
            "reason": reason,
            "ready": [],
        }

    return try_version


def test_the_version_that_is_tried_and_stays(node, limpet_, prefix):
    add(prefix, "0.0.9")
    node.on_try = ended("complete")
    result = limpet_("upgrade", "--rollback", "--prefix", prefix.path)
    assert result.exit_code == 0, result.output
    assert result.stdout == ("version 0.2.0 runs; 0.1.0 is kept for `limpet upgrade --rollback`\n")
    assert [each.version for each in prefix.versions()] == ["0.1.0", "0.2.0"]


def test_the_version_that_does_not_stay(node, limpet_, prefix):
    node.on_try = ended("failed", "there is no engine")
    result = limpet_("upgrade", "0.2.0", "--prefix", prefix.path)
    assert result.exit_code == 1
    assert (
        "version 0.2.0 was tried and is not used, 0.1.0 runs: there is no engine" in result.stderr
    )


def test_a_trial_that_does_not_end(node, limpet_, prefix, monkeypatch):
    monkeypatch.setattr(upgrade_module, "_LATE_SECONDS", 0.3)
    node.on_try = ended("trial")
    result = limpet_("upgrade", "--rollback", "--prefix", prefix.path)
    assert result.exit_code == 7
    assert "still being tried" in result.stderr


@pytest.mark.parametrize("source", ["--rollback", "0.2.0"])
def test_nobody_changes_what_is_installed_while_a_version_is_tried(
    node, limpet_, prefix, socket_path, source
):
    """A command that looked for what may go before the trial began would remove what is tried."""
    others = []

    def try_version(upgrade, version):
        node.on_try = ended("failed")
        for demand in ("0.2.0", "--rollback", "--status"):
            command = [sys.executable, "-m", "limpet", "--socket", socket_path, "upgrade", demand]
            others.append(
                subprocess.run(
                    [*command, "--prefix", prefix.path], capture_output=True, text=True, check=False
                )
            )
        ended("complete")(upgrade, version)

    node.on_try = try_version
    result = limpet_("upgrade", source, "--prefix", prefix.path)
    assert result.exit_code == 0, result.output
    assert [other.returncode for other in others] == [7, 7, 0]
    for other in others[:2]:
        assert f"another `limpet upgrade` (process {os.getpid()}) works on" in other.stderr
    node.on_try = ended("complete")
    assert limpet_("upgrade", source, "--prefix", prefix.path).exit_code == 0


def test_an_older_schema_is_not_gone_back_to(node, limpet_, prefix):
    add(prefix, "0.2.0", schema=1)
    result = limpet_("upgrade", "--rollback", "--prefix", prefix.path)
    assert result.exit_code == 4
    assert "can't read the state that 0.1.0 has written" in result.stderr
    assert node.asked("POST") == []


def test_without_a_node(limpet_, tmp_path):
    prefix = Prefix(tmp_path / "opt")
    add(prefix, "0.1.0")
    result = limpet_("upgrade", "0.1.0", "--prefix", prefix.path)
    assert result.exit_code == 0, result.output
    assert prefix.current == "0.1.0"
    add(prefix, "0.2.0")
    result = limpet_("upgrade", "0.2.0", "--prefix", prefix.path)
    assert result.exit_code == 6
    assert "no node runs that could try another version" in result.stderr
    assert prefix.current == "0.1.0"
    result = limpet_("upgrade", "0.2.0", "--prefix", prefix.path, "--untried", "--json")
    assert json.loads(result.stdout)["state"] == "installed"
    assert (prefix.current, prefix.previous) == ("0.2.0", "0.1.0")
    assert limpet_("upgrade", "--rollback", "--prefix", prefix.path, "--untried").exit_code == 0
    assert prefix.current == "0.1.0"


def test_a_node_that_runs_is_to_try_it(node, limpet_, prefix):
    result = limpet_("upgrade", "0.2.0", "--prefix", prefix.path, "--untried")
    assert result.exit_code == 4
    node.upgrade["is_undecided"] = True
    assert limpet_("upgrade", "0.2.0", "--prefix", prefix.path).exit_code == 7
    node.upgrade["prefix"] = None
    result = limpet_("upgrade", "0.2.0", "--prefix", prefix.path)
    assert result.exit_code == 4
    assert f"start {prefix.path}/current/bin/limpet up" in result.stderr
    assert node.asked("POST") == []


def test_a_dry_run_changes_nothing(node, limpet_, prefix):
    result = limpet_("upgrade", "0.2.0", "--prefix", prefix.path, "--dry-run")
    assert "is installed already, and then would be tried; nothing was changed" in result.stdout
    result = limpet_("upgrade", "--rollback", "--prefix", prefix.path, "--dry-run", "--json")
    assert json.loads(result.stdout)["version"] == "0.2.0"
    assert node.asked("POST") == []


def test_a_signature_is_demanded_of_a_source(limpet_):
    result = limpet_("upgrade", "--rollback", "--require-signature")
    assert result.exit_code == 2
    assert "--require-signature is for SOURCE" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["0.2.0", "--rollback"], ["--status", "--rollback"]])
def test_one_thing_at_a_time(limpet_, arguments):
    result = limpet_("upgrade", *arguments)
    assert result.exit_code == 2
    assert "expected one of SOURCE, --status and --rollback" in result.stderr


@pytest.mark.parametrize("source", ["../nowhere", "nowhere.whl", "wheels/"])
def test_what_is_not_there(node, limpet_, prefix, source):
    assert limpet_("upgrade", source, "--prefix", prefix.path).exit_code == 3


def test_status(node, limpet_, prefix, golden, monkeypatch):
    monkeypatch.chdir(prefix.path.parent)
    ended("failed", "there is no engine")(node.upgrade, "0.2.0")
    result = limpet_("upgrade", "--status", "--prefix", "opt")
    golden("upgrade-status.txt", result.stdout.replace(str(prefix.path), "/opt/limpet"))
    told = json.loads(limpet_("upgrade", "--status", "--prefix", "opt", "--json").stdout)
    assert told["versions"] == ["0.1.0", "0.2.0"]
    assert told["node"]["last"]["state"] == "failed"
    node.stop()
    assert "not running" in limpet_("upgrade", "--status", "--prefix", "opt").stdout


class TestBundles:
    @pytest.fixture
    def make_bundle(self, tmp_path):
        from limpet.bundle.writing import Plan, write_bundle
        from limpet.cli.bundle_sources import gather_wheels

        def make(version="0.2.0", *, with_wheels=True, sign=None):
            folder = tmp_path / "wheels"
            folder.mkdir(exist_ok=True)
            with zipfile.ZipFile(folder / f"limpet-{version}-py3-none-any.whl", "w") as archive:
                archive.writestr("limpet/__init__.py", "")
            entry = ObjectEntry(
                object={
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "a", "namespace": "default"},
                },
                digest=None,
            )
            wheels = gather_wheels(folder) if with_wheels else ()
            path = tmp_path / "site.bundle"
            plan = Plan(objects=[entry], modules=[], compiled=(), wheels=wheels)
            write_bundle(path, plan, sign=sign)
            return path

        return make

    @pytest.fixture
    def open_(self, socket_path, tmp_path):
        """Open a source as the command does, in an empty installation."""
        from limpet.api.client import Client
        from limpet.cli.terminal import StatusLine

        place = Prefix(tmp_path / "opt")
        place.path.mkdir()

        def open_(path, *, require_signature=False):
            return open_source(
                str(path),
                place=place,
                client=Client(socket_path),
                status=StatusLine(),
                require_signature=require_signature,
            )

        return open_

    def test_its_wheels_are_there_while_it_is_open(self, make_bundle, open_, tmp_path):
        with open_(make_bundle()) as source:
            assert source.version == "0.2.0"
            assert source.pip_arguments[0] == "--no-index"
            assert source.wheel.exists()
        assert os.listdir(tmp_path / "opt") == []

    def test_no_room_is_said_before_one_is_unpacked(
        self, limpet_, make_bundle, tmp_path, monkeypatch
    ):
        fields = list(os.statvfs(tmp_path))
        fields[4] = 0  # f_bavail
        monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(fields))
        monkeypatch.setattr(Prefix, "scratch", lambda self: pytest.fail("it was unpacked"))
        for options in ([], ["--dry-run"]):
            result = limpet_("upgrade", make_bundle(), "--prefix", tmp_path / "opt", *options)
            assert result.exit_code == 7, result.output
            assert "what site.bundle unpacks to takes 0 MiB" in result.stderr

    def test_what_a_killed_command_left_goes(self, limpet_, make_bundle, tmp_path):
        left = tmp_path / "opt/.wheels-killed"
        left.mkdir(parents=True)
        (left / "limpet-0.1.0-py3-none-any.whl").write_bytes(b"")
        result = limpet_("upgrade", make_bundle(), "--prefix", tmp_path / "opt", "--dry-run")
        assert result.exit_code == 0, result.output
        assert os.listdir(tmp_path / "opt") == [".lock"]

    def test_one_without_wheels(self, make_bundle, open_):
        with (
            pytest.raises(NotFoundError, match="has no wheels"),
            open_(make_bundle(with_wheels=False)),
        ):
            pass

    def test_one_that_nobody_trusted_has_signed(self, node, make_bundle, open_, tmp_path):
        bundle = make_bundle(sign=lambda data: "c2lnbmVk")
        with (
            pytest.raises(UntrustedWheelsError, match="signed by nobody"),
            open_(bundle, require_signature=True),
        ):
            pass
        assert os.listdir(tmp_path / "opt") == []
        node.trusted = "somebody"
        with open_(bundle, require_signature=True) as source:
            assert source.version == "0.2.0"

    def test_without_a_node_nobody_can_judge(self, make_bundle, open_):
        bundle = make_bundle(sign=lambda data: "c2lnbmVk")
        with (
            pytest.raises(UntrustedWheelsError, match="while no node runs"),
            open_(bundle, require_signature=True),
        ):
            pass

    @pytest.mark.parametrize(
        "name", ["wheels", "site.bundle", "limpet-0.2.0-py3-none-any.whl", "0.2.0"]
    )
    def test_what_is_no_bundle_is_not_signed(self, open_, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        for folder in ("wheels", "site.bundle"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "limpet-0.2.0-py3-none-any.whl").write_bytes(b"")
        (tmp_path / "limpet-0.2.0-py3-none-any.whl").write_bytes(b"")
        with open_(name):
            pass
        with (
            pytest.raises(UntrustedWheelsError, match=f"{name} is no bundle"),
            open_(name, require_signature=True),
        ):
            pass

    @pytest.mark.parametrize("has_versions", [True, False])
    def test_a_node_that_wants_signed_bundles_only(
        self, node, limpet_, prefix, make_bundle, tmp_path, has_versions
    ):
        error = {"reason": "UntrustedBundle", "message": "the setting refuses it"}
        node.failures["POST", "/v1/bundles"] = (403, (), {"error": error})
        place = prefix.path if has_versions else tmp_path / "first"
        result = limpet_("upgrade", make_bundle("0.3.0"), "--prefix", place, "--dry-run")
        assert result.exit_code == 5
        assert "the setting refuses it" in result.stderr

    def test_what_is_installed_is_not_what_was_verified(self, node, limpet_, prefix, make_bundle):
        """pip refuses these wheels: that they were given to it is the point."""
        node.trusted = "somebody"
        node.on_try = ended("complete")
        add(prefix, "0.3.0")
        demand = (
            "upgrade",
            make_bundle("0.3.0", sign=lambda data: "c2lnbmVk"),
            "--require-signature",
            "--prefix",
            prefix.path,
        )
        dry = limpet_(*demand, "--dry-run")
        assert "would be installed" in dry.stdout
        assert prefix.find("0.3.0") is not None
        result = limpet_(*demand)
        assert result.exit_code == 6
        assert "pip could not install it" in result.stderr
        assert prefix.find("0.3.0") is None
        assert "/v1/upgrade" not in node.asked("POST")

    def test_what_is_gone_back_to_is_kept(self, node, limpet_, prefix, make_bundle):
        node.trusted = "somebody"
        bundle = make_bundle("0.2.0", sign=lambda data: "c2lnbmVk")
        result = limpet_("upgrade", bundle, "--require-signature", "--prefix", prefix.path)
        assert result.exit_code == 4
        assert "maybe from other wheels than the signed ones" in result.stderr
        assert prefix.find("0.2.0") is not None
