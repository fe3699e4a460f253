"""What `limpet engine` shows; installing itself is tested elsewhere, for real."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from limpet.errors import UnavailableError
from limpet.provision import engine_report, engines
from limpet.provision.engine_report import EngineReport
from limpet.provision.engines import EngineNotInstalledError, Installed
from limpet.provision.packages import DownloadError, Mirror, Package

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
WASMTIME = EngineReport(
    name="wasmtime",
    state="usable",
    version="50.0.1",
    where="/opt/limpet/lib/python3.13/site-packages/wasmtime/linux-aarch64/_libwasmtime.so",
    memory="4 GiB of address space for each guest",
    modes=("ahead-of-time",),
)
MISSING = EngineReport(
    name="wasmedge",
    state="missing",
    problem="there is no libwasmedge.so.0 for aarch64-linux-gnu in the system's libraries: "
    "install it with `limpet engine install wasmedge`",
)
WHERE = "/var/lib/limpet/engines/wasmedge/0.14.1-0123abcd"
WASMEDGE = EngineReport(
    name="wasmedge",
    state="usable",
    version="0.14.1",
    where=f"{WHERE}/root/usr/lib/aarch64-linux-gnu/libwasmedge.so.0",
    memory="12 GiB of address space for each guest",
    modes=("ahead-of-time", "interpreter"),
)
BROKEN = EngineReport(
    name="wasmedge",
    state="broken",
    version="0.14.1",
    where=WASMEDGE.where,
    problem="trying wasmedge failed (killed by SIGILL)",
)
PACKAGES = (
    Package("libwasmedge0", "0.14.1+dfsg-3.1", "arm64", 1_376_152, 5_000_000, "aa"),
    Package("wasmedge", "0.14.1+dfsg-3.1", "arm64", 42_160, 70_000, "bb"),
)
INSTALLED = Installed(
    action="install",
    where=WHERE,
    version="0.14.1",
    packages=PACKAGES,
    download_size=41_900_000,
    unpacked_size=185_900_000,
    size=175_100_000,
)


@pytest.fixture
def engines_here(monkeypatch):
    def set_reports(*reports):
        asked = []

        def examine(data_directory):
            asked.append(data_directory)
            return list(reports)

        monkeypatch.setattr(engine_report, "examine_engines", examine)
        return asked

    return set_reports


@pytest.fixture
def installer(monkeypatch):
    """Answer an installation; what it was asked is returned."""

    def set_answer(answer, *steps):
        asked = []

        def install(data_directory, *, progress, **options):
            asked.append({"data": data_directory, **options})
            for step in steps:
                progress(step)
                progress(step, 0.5)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(engines, "install_wasmedge", install)
        return asked

    return set_answer


@pytest.mark.parametrize(
    ("name", "second"), [("usable", WASMEDGE), ("missing", MISSING), ("broken", BROKEN)]
)
def test_list(engines_here, limpet_, golden, name, second):
    engines_here(WASMTIME, second)
    result = limpet_("engine", "list")
    assert result.exit_code == 0
    golden(f"engine-list-{name}.txt", result.stdout)


def test_list_in_a_narrow_terminal(engines_here, limpet_, terminal, golden):
    engines_here(WASMTIME, BROKEN)
    terminal(80)
    result = limpet_("engine", "list")
    lines = [_ESCAPES.sub("", line) for line in result.stdout.splitlines()]
    assert max(map(len, lines)) <= 80
    golden("engine-list-terminal.txt", "\n".join(lines) + "\n")


def test_list_as_json(engines_here, limpet_):
    asked = engines_here(WASMTIME, MISSING)
    items = json.loads(limpet_("engine", "list", "-o", "json", "--data", "/srv/data").stdout)[
        "items"
    ]
    assert asked == [Path("/srv/data")]
    assert items[0] == {
        "name": "wasmtime",
        "version": "50.0.1",
        "state": "usable",
        "default": True,
        "modes": ["ahead-of-time"],
        "where": WASMTIME.where,
        "memory": WASMTIME.memory,
        "problem": "",
    }
    assert (items[1]["state"], items[1]["default"]) == ("missing", False)


def test_install(installer, limpet_, golden):
    asked = installer(INSTALLED, "fetching", "unpacking")
    result = limpet_("engine", "install", "wasmedge", "--data", "/srv/data")
    assert result.exit_code == 0
    assert result.stderr == "fetching\nunpacking\n"
    golden("engine-install.txt", result.stdout)
    assert asked == [
        {
            "data": Path("/srv/data"),
            "suite": "trixie",
            "mirror": None,
            "cache": None,
            "is_dry_run": False,
        }
    ]


def test_install_options(installer, limpet_):
    asked = installer(INSTALLED)
    options = ["--suite", "sid", "--mirror", "http://mirror.test/debian", "--cache", "kept"]
    assert limpet_("engine", "install", "wasmedge", "--dry-run", *options).exit_code == 0
    assert asked[0]["suite"] == "sid"
    assert asked[0]["mirror"] == Mirror("http://mirror.test/debian")
    assert asked[0]["cache"] == Path.cwd() / "kept"
    assert asked[0]["is_dry_run"]


def test_install_dry_run(installer, limpet_, golden):
    installer(INSTALLED)
    golden(
        "engine-install-dry-run.txt",
        limpet_("engine", "install", "wasmedge", "--dry-run").stdout,
    )


@pytest.mark.parametrize("action", ["keep", "system"])
@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_nothing_to_install(installer, limpet_, action, options):
    installer(Installed(action=action, where=WHERE, version="0.14.1", size=175_100_000))
    result = limpet_("engine", "install", "wasmedge", *options)
    assert result.exit_code == 0
    assert result.stdout.startswith("nothing to do: ")
    assert WHERE in result.stdout


def test_install_as_json(installer, limpet_):
    installer(INSTALLED)
    told = json.loads(limpet_("engine", "install", "wasmedge", "-o", "json").stdout)
    assert (told["action"], told["version"], told["dry_run"]) == ("install", "0.14.1", False)
    assert told["packages"][1]["name"] == "wasmedge"


@pytest.mark.parametrize(
    ("error", "code"),
    [(DownloadError("no network\nlook at it"), 7), (UnavailableError("no apt"), 6)],
)
def test_install_fails_with_its_categorys_code(installer, limpet_, error, code):
    installer(error, "fetching")
    result = limpet_("engine", "install", "wasmedge")
    assert result.exit_code == code
    assert [line for line in result.stderr.splitlines() if line != "fetching"] == [
        f"error: {line}" for line in str(error).splitlines()
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["install"],
        ["install", "v8"],
        ["install", "wasmtime"],
        ["install", "wasmedge", "--suite", "bookworm"],
        ["install", "wasmedge", "--mirror", "mirror.test"],
        ["install", "wasmedge", "--mirror", "http://mirror.test/ [trusted=yes]"],
        ["remove", "wasmtime"],
        ["lst"],
    ],
)
def test_what_can_not_be_meant(installer, limpet_, arguments):
    installer(AssertionError("not to be called"))
    assert limpet_("engine", *arguments).exit_code == 2


def test_remove(limpet_, monkeypatch):
    monkeypatch.setattr(engines, "remove_wasmedge", lambda data: 175_100_000)
    result = limpet_("engine", "remove", "wasmedge")
    assert result.stdout == "wasmedge was removed; 175 MB are free again\n"


def test_remove_what_is_not_there(limpet_, tmp_path):
    result = limpet_("engine", "remove", "wasmedge", "--data", tmp_path)
    assert result.exit_code == EngineNotInstalledError.exit_code == 3
    assert str(tmp_path) in result.stderr


@pytest.mark.parametrize("verb", ["list", "install", "remove"])
def test_every_verb_has_examples(limpet_, verb):
    result = limpet_("engine", verb, "--help")
    assert result.exit_code == 0
    assert f"limpet engine {verb}" in result.stdout.partition("Examples:")[2]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["engine", "in"], ["install"]),
        (["engine", "install", "w"], ["wasmedge"]),
        (["engine", "install", "wasmedge", "--suite", ""], ["trixie", "sid"]),
    ],
)
def test_completion(limpet_, monkeypatch, words, expected):
    monkeypatch.setenv("_LIMPET_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(["limpet", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    lines = limpet_().stdout.splitlines()
    assert [line.partition(",")[2] for line in lines if line] == expected
