"""Where libwasmedge is, and how a Python that can load it is started.

The library comes with the system, or lies in a prefix: Debian packages unpacked below a directory of
their own, with the C library that they were built for. Where that C library is newer than the system's,
a process that is to load the library runs this same Python under the prefix's dynamic loader (ld.so(8)):
the C library of a process can't be changed once it runs.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.engine.missing import EngineMissingError

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Iterator, Sequence

TESTED_VERSIONS = ("0.14", "0.17")
"""Series that the binding was tested with. Their ABIs differ although the library's name is one."""

LIBRARY = "libwasmedge.so.0"
ROOT_VARIABLE = "LIMPET_WASMEDGE_ROOT"
"""The environment variable that names a prefix's root."""

INSTALLED = "engines/wasmedge"
"""Where `limpet engine install wasmedge` puts prefixes, below the data directory: each is
`VERSION-DIGEST/root`, and the link `current` names one."""

_C_LIBRARY = "libc.so.6"
_LOADERS_CACHE = "etc/ld.so.cache"
_REINSTALL = "Install it again: `limpet engine install wasmedge`"
_HOW_TO_INSTALL = "install it with `limpet engine install wasmedge`"


@dataclass(frozen=True, slots=True)
class Machine:
    """A processor as Debian's multiarch names it: directory, dynamic loader, ELF's `e_machine`."""

    triplet: str
    loader: str
    elf_machine: int


_X86_64 = Machine("x86_64-linux-gnu", "ld-linux-x86-64.so.2", 62)
_AARCH64 = Machine("aarch64-linux-gnu", "ld-linux-aarch64.so.1", 183)
_MACHINES = {"x86_64": _X86_64, "amd64": _X86_64, "aarch64": _AARCH64, "arm64": _AARCH64}


@dataclass(frozen=True, slots=True)
class Installation:
    """A libwasmedge that this machine can run.

    `library` is its path; `root` the root of the prefix that it lies in, None for the system's own;
    `loader` the prefix's dynamic loader where this process's C library is too old for the library, else
    None; `library_path` the directories where the loader finds libraries; `version` what the prefix's
    name says, empty where nothing says it.
    """

    library: str
    root: str | None = None
    loader: str | None = None
    library_path: tuple[str, ...] = ()
    version: str = ""


def this_machine() -> Machine:
    """The processor of this process. Raises `EngineMissingError` where WasmEdge has no packages."""
    name = os.uname().machine
    machine = _MACHINES.get(name.lower())
    if machine is None or not sys.platform.startswith("linux") or sys.maxsize < 1 << 32:
        bits = 64 if sys.maxsize > 1 << 32 else 32
        raise EngineMissingError(
            f"WasmEdge has no library for a {bits}-bit Python on {sys.platform} {name}: "
            "it needs 64-bit Linux on x86-64 or aarch64"
        )
    return machine


def is_tested(version: str) -> bool:
    """Whether the binding was tested with the series of this version."""
    return ".".join(version.split(".")[:2]) in TESTED_VERSIONS


def find_installation(data_directory: str | None, *, system_root: str = "/") -> Installation:
    """Find the library: what LIMPET_WASMEDGE_ROOT names, the system's, then the installed one.

    `data_directory` is the node's; None leaves the installed one out. Starts no process and loads
    nothing. Raises `EngineMissingError`, which says what was looked at.
    """
    machine = this_machine()
    named = os.environ.get(ROOT_VARIABLE)
    if named:
        found = find_in_prefix(os.path.abspath(named), machine=machine)
        if found is None:
            raise EngineMissingError(
                f"{ROOT_VARIABLE} is {named}, and no {LIBRARY} for {machine.triplet} is below it: "
                "name the directory that holds usr/lib, or unset it"
            )
        return found
    looked_at = ["the system's libraries"]
    library = find_in_system(system_root)
    if library is not None:
        return Installation(library)
    if data_directory is not None:
        current = os.path.join(data_directory, INSTALLED, "current")
        looked_at.append(current)
        found = _find_installed(current, machine)
        if found is not None:
            return found
    raise EngineMissingError(
        f"there is no {LIBRARY} for {machine.triplet} in {' or '.join(looked_at)}: {_HOW_TO_INSTALL}"
    )


def find_in_system(system_root: str = "/") -> str | None:
    """The path of the system's own library, if it has one for this machine."""
    machine = this_machine()
    local = [os.path.join("usr/local", each) for each in ("lib/" + machine.triplet, "lib64", "lib")]
    folders = [os.path.join(system_root, each) for each in (*local, *_library_folders(machine))]
    found = _first_library(folders, machine)
    if found is not None:
        return found
    cached = _read_loaders_cache(os.path.join(system_root, _LOADERS_CACHE))
    return next((path for path in cached if _is_elf(path, machine)), None)


def find_in_prefix(
    root: str, *, machine: Machine | None = None, version: str = ""
) -> Installation | None:
    """The library below this root, if one is. Raises `EngineMissingError` where it can't be run."""
    machine = machine or this_machine()
    folders = [
        folder
        for each in _library_folders(machine)
        if os.path.isdir(folder := os.path.join(root, each))
    ]
    library = _first_library(folders, machine)
    if library is None:
        return None
    library_path = tuple(_without_repetition(_with_libraries(folders)))
    loader = None
    if needs_loader(library_path):
        loader = next(
            (path for each in folders if _is_elf(path := f"{each}/{machine.loader}", machine)), None
        )
        if loader is None:
            raise EngineMissingError(
                f"the C library in {root} is newer than this system's ({_describe_c_library()}), "
                f"and no {machine.loader} to run it with is there: {_HOW_TO_INSTALL}"
            )
    return Installation(
        library, root=root, loader=loader, library_path=library_path, version=version
    )


def find_library(data_directory: str | None = None) -> str:
    """The path to load in this process, which `command` started or which needs no loader.

    Raises `EngineMissingError` where there is none, or where this process can't load it.
    """
    own = _library_beside_loader()
    if own is not None:
        return own
    installation = find_installation(data_directory)
    if installation.loader is not None:
        raise EngineMissingError(
            f"{installation.library} needs a newer C library than this process runs with "
            f"({_describe_c_library()}): start the process under {installation.loader}"
        )
    return installation.library


def load_library(path: str) -> ctypes.CDLL:
    """Load the library, with what it needs from the directory that it lies in.

    Raises `EngineMissingError` with what the dynamic loader says when that fails.
    """
    import ctypes

    try:
        return ctypes.CDLL(path)
    except OSError:
        pass  # in a prefix, without its loader, the others are not found
    from limpet.engine.wasmedge.dependencies import ElfError, dependencies

    try:
        for needed in dependencies(path):
            ctypes.CDLL(needed)
        return ctypes.CDLL(path)
    except (OSError, ElfError) as error:
        raise EngineMissingError(f"{path} can't be loaded: {error}. {_REINSTALL}") from error


def needs_loader(library_path: Sequence[str], *, own: tuple[int, ...] | None = None) -> bool:
    """Whether these directories hold a newer C library than `own`, which is this process's.

    No longer true in a process that runs under the loader of such a directory.
    """
    own = own or c_library_version()
    others = (read_c_library_version(os.path.join(each, _C_LIBRARY)) for each in library_path)
    return any(other > own for other in others if other)


def command(installation: Installation, arguments: Sequence[str]) -> list[str]:
    """The argv that runs this Python with `arguments`, able to load the library.

    Under the loader it needs no environment variables, and finds the same site-packages: Python goes by
    the name that it was called by, which stays `sys.executable`. What it starts from `sys.executable`
    does not inherit the loader. Raises `EngineMissingError` when there is no Python to be found.
    """
    if not sys.executable:
        raise EngineMissingError("this process does not know which Python it is (sys.executable)")
    if installation.loader is None:
        return [sys.executable, *arguments]
    # An option takes the place of LD_LIBRARY_PATH: a Python whose own library is found by it needs it.
    directories = [*installation.library_path, *_environment_path()]
    strange = [each for each in installation.library_path if set(each) & set(":;$")]
    if strange:
        raise EngineMissingError(
            f"the dynamic loader can't be told of {strange[0]}: it takes `:`, `;` and `$` for its own. "
            "Choose a data directory without them"
        )
    return [
        installation.loader,
        "--argv0",
        sys.executable,
        "--library-path",
        ":".join(directories),
        _find_python(this_machine()),
        *arguments,
    ]


def c_library_version() -> tuple[int, ...]:
    """The version of the C library that this process runs with (confstr(3)).

    Raises `EngineMissingError` when it is not glibc: WasmEdge's packages are built for that.
    """
    return _parse_version(_describe_c_library().removeprefix("glibc "))


def read_c_library_version(path: str) -> tuple[int, ...]:
    """The version that this libc.so.6 says it is of; empty when it says none or is not there."""
    import mmap
    import re

    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
            found = re.search(rb"(?:stable|development) release version (\d+\.\d+)", content)
            return _parse_version(found[1].decode("ascii")) if found else ()
    except (OSError, ValueError):  # not there; empty
        return ()


# Finding


def _find_installed(current: str, machine: Machine) -> Installation | None:
    """The prefix that the installer's link names, by its own name: the link may move on."""
    folder = os.path.realpath(current)
    version, _, _ = os.path.basename(folder).partition("-")
    return find_in_prefix(os.path.join(folder, "root"), machine=machine, version=version)


def _library_folders(machine: Machine) -> Iterator[str]:
    """Where libraries and loaders lie below a root, those of Debian's multiarch first."""
    for folder in (f"lib/{machine.triplet}", "lib64", "lib"):
        yield f"usr/{folder}"
        yield folder


def _first_library(folders: Sequence[str], machine: Machine) -> str | None:
    paths = (os.path.join(folder, LIBRARY) for folder in folders)
    return next((path for path in paths if _is_elf(path, machine)), None)


def _read_loaders_cache(path: str) -> list[str]:
    """Paths of the library in ldconfig(8)'s cache, where they stand as strings that end in NUL."""
    import re

    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError:
        return []  # a system without one
    pattern = rb"/[^\0]*/" + re.escape(LIBRARY.encode()) + rb"(?=\0)"
    return [os.fsdecode(found) for found in re.findall(pattern, content)]


def _is_elf(path: str, machine: Machine) -> bool:
    """Whether the file is a 64-bit little-endian ELF for this machine (elf(5))."""
    try:
        with open(path, "rb") as file:
            head = file.read(20)
    except OSError:
        return False
    is_elf64 = head[:6] == b"\x7fELF\x02\x01"
    return is_elf64 and int.from_bytes(head[18:20], "little") == machine.elf_machine


def _with_libraries(folders: Sequence[str]) -> list[str]:
    return [folder for folder in folders if any(".so" in name for name in os.listdir(folder))]


def _without_repetition(folders: Sequence[str]) -> list[str]:
    """The folders without those that are another one by a link."""
    return list({os.path.realpath(folder): folder for folder in reversed(folders)}.values())[::-1]


# This process


def _library_beside_loader() -> str | None:
    """The library of the prefix whose loader this process runs under."""
    machine = this_machine()
    running = _running_file()
    if os.path.basename(running) != machine.loader:
        return None
    library = os.path.join(os.path.dirname(running), LIBRARY)
    return library if _is_elf(library, machine) else None


def _find_python(machine: Machine) -> str:
    """The ELF that `sys.executable` leads to; what runs here where that is a script in front of it."""
    candidates = [os.path.realpath(sys.executable)]
    running = _running_file()
    if os.path.basename(running) != machine.loader:
        candidates.append(running)
    for path in candidates:
        if _is_elf(path, machine):
            return path
    raise EngineMissingError(
        f"{sys.executable} does not lead to a Python for {machine.triplet} that can be run under "
        "another dynamic loader: run Limpet with the system's Python or one that pyenv or uv made"
    )


def _running_file() -> str:
    """What the kernel runs as this process: under a loader that is the loader (proc(5))."""
    try:
        return os.readlink("/proc/self/exe")
    except OSError:
        return ""  # no /proc here


def _environment_path() -> list[str]:
    return [each for each in os.environ.get("LD_LIBRARY_PATH", "").split(":") if each]


def _describe_c_library() -> str:
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        text = None
    if not text:
        raise EngineMissingError(
            "this Python does not run with glibc, which WasmEdge's packages are built for: "
            "run Limpet with a Python of Debian, Ubuntu, pyenv or uv"
        )
    return text


def _parse_version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
