"""Debian packages from the archive that this machine's apt uses, with lists and state of their own.

Nothing of the system's own package state is read or changed. What apt fetches is what the archive's keys
signed (apt-secure(8)); packages are unpacked, never installed: no script of theirs runs.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from limpet.errors import TemporaryError, UnavailableError
from limpet.provision import commands

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SUITES = ("trixie", "sid")
"""Suites of Debian that have packages of an engine."""

_KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
)
_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_SUITES_WITHOUT_SECURITY = frozenset({"sid"})  # its fixes come as new versions
_SIGNATURE_WORDS = ("NO_PUBKEY", "EXPKEYSIG", "BADSIG", "is not signed", "Sub-process /usr/bin/sqv")
_DOWNLOAD = re.compile(r"dlstatus:[^:]*:([\d.]+):")
_SELECTED = re.compile(r"^Inst (\S+) \((\S+) .*\[(\w+)\]\)", re.MULTILINE)


class PackageError(UnavailableError):
    """Debian's packages can't be had on this machine."""

    reason = "PackagesUnavailable"


class DownloadError(TemporaryError):
    """The archive did not give what was asked of it."""

    reason = "DownloadFailed"


class Progress(Protocol):
    """Told of each step, and how far it is where that is known: `share` is from 0 to 1."""

    def __call__(self, text: str, share: float | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where the archive is fetched from; `security` is that of the security updates, if known."""

    main: str
    security: str | None = None


@dataclass(frozen=True, slots=True)
class Package:
    """One package as the archive's signed index describes it; sizes are in bytes."""

    name: str
    version: str
    architecture: str
    size: int
    installed_size: int
    sha256: str

    @property
    def file_name(self) -> str:
        """What apt calls its file; an epoch's colon is quoted."""
        version = self.version.replace(":", "%3a")
        return f"{self.name}_{version}_{self.architecture}.deb"


def find_mirror() -> Mirror:
    """Ask this machine's apt which Debian archive it uses. Raises `PackageError` when it uses none."""
    require_tools()
    text = commands.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"],
        step="asking apt for its sources",
    )
    found: dict[str, str] = {}
    for line in text.splitlines():
        origin, label, address = line.split("|", 2)
        if origin == "Debian":
            found.setdefault(label, address)
    if "Debian" not in found:
        raise PackageError(
            "apt knows of no Debian archive on this machine: name one with --mirror URL, or where "
            "the sources do name one run `apt-get update` first"
        )
    return Mirror(found["Debian"], found.get("Debian-Security"))


def require_tools() -> None:
    """Raise `PackageError` unless apt and dpkg are here."""
    missing = [tool for tool in ("apt-get", "apt-cache", "dpkg") if shutil.which(tool) is None]
    if missing:
        raise PackageError(
            f"{' and '.join(missing)} not found: packages are fetched with apt, which Debian, "
            "Raspberry Pi OS and Ubuntu have"
        )


def find_keyring() -> str:
    """The public keys of Debian's archive, as a package of this machine has put them."""
    for path in _KEYRINGS:
        if os.path.isfile(path):
            return path
    raise PackageError(
        f"the keys that Debian signs its archive with are not here ({_KEYRINGS[-1]}): "
        "install them (apt-get install debian-archive-keyring)"
    )


class PackageArchive:
    """One suite of Debian's archive, fetched into `folder`, which a later one may use again."""

    def __init__(self, folder: Path, *, suite: str, mirror: Mirror) -> None:
        self._folder = folder
        self._suite = suite
        self._mirror = mirror
        self._configuration = folder / "apt.conf"

    def update(self, progress: Progress) -> None:
        """Fetch the suite's package lists and check their signatures.

        Raises `PackageError` and `DownloadError`.
        """
        self._write_configuration()
        self._fetch(
            ["update"], progress, text=f"fetching the package lists of Debian {self._suite}"
        )

    def resolve(self, name: str) -> tuple[Package, ...]:
        """What installing this package on an empty system would install, in name order."""
        told = self._apt(
            ["apt-get", "--simulate", "install", name],
            step=f"choosing what {name} of Debian {self._suite} needs",
        )
        wanted = [f"{name}={version}" for name, version, _ in _SELECTED.findall(told)]
        if not wanted:
            raise PackageError(f"apt chose nothing for {name} of Debian {self._suite}")
        told = self._apt(["apt-cache", "show", *wanted], step="reading about the packages")
        return tuple(sorted(_parse_packages(told), key=lambda package: package.name))

    def download(
        self, name: str, packages: Sequence[Package], progress: Progress
    ) -> Iterator[Path]:
        """Fetch the package and what it needs; return the files of `packages`, each checked.

        Raises `DownloadError`.
        """
        size = sum(package.size for package in packages)
        text = f"downloading {len(packages)} packages, {size / 1e6:.0f} MB"
        self._fetch(["--download-only", "install", name], progress, text=text)
        for package in packages:
            path = self._folder / "archives" / package.file_name
            _check(path, package)
            yield path

    def missing_size(self, packages: Sequence[Package]) -> int:
        """How many bytes of these are still to be fetched."""
        folder = self._folder / "archives"
        return sum(each.size for each in packages if not (folder / each.file_name).exists())

    def _write_configuration(self) -> None:
        folder = self._folder
        if '"' in str(folder):
            raise PackageError(f"{folder}: apt can't use a directory with a quotation mark in it")
        for each in ("lists/partial", "archives/partial"):
            (folder / each).mkdir(parents=True, exist_ok=True)
        (folder / "status").write_bytes(b"")
        architecture = _architecture()
        (folder / "sources.list").write_text(
            "".join(
                f"deb [arch={architecture} target=Packages signed-by={find_keyring()}] "
                f"{address} {suite} main\n"
                for address, suite in self._sources()
            ),
            "utf-8",
        )
        sandbox = "" if _is_open_to_all(folder) else _UNCONFINED
        text = _CONFIGURATION.format(folder=folder, architecture=architecture) + sandbox
        self._configuration.write_text(text, "utf-8")

    def _sources(self) -> Iterator[tuple[str, str]]:
        yield self._mirror.main, self._suite
        if self._mirror.security is not None and self._suite not in _SUITES_WITHOUT_SECURITY:
            yield self._mirror.security, f"{self._suite}-security"

    def _apt(self, words: Sequence[str], *, step: str) -> str:
        return commands.run([words[0], "-c", str(self._configuration), *words[1:]], step=step)

    def _fetch(self, words: Sequence[str], progress: Progress, *, text: str) -> None:
        progress(text)

        def argv(status: int) -> list[str]:
            options = ["-c", str(self._configuration), "-o", f"APT::Status-Fd={status}"]
            return ["apt-get", *options, *words]

        def tell(line: str) -> None:
            found = _DOWNLOAD.match(line)
            if found:
                progress(text, min(float(found[1]) / 100, 1.0))

        try:
            commands.follow(argv, step=text, tell=tell)
        except commands.CommandError as error:
            raise _fetch_error(error) from error


def unpack(path: Path, root: Path) -> None:
    """Put a package's files below `root`; none of its scripts runs. Raises `PackageError`."""
    commands.run(["dpkg", "-x", str(path), str(root)], step=f"unpacking {path.name}")


_CONFIGURATION = """\
#clear APT::Architectures;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Default-Release "";
APT::Get::AllowUnauthenticated "false";
APT::Get::Assume-Yes "true";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Update::Error-Mode "any";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::GzipIndexes "true";
Acquire::Languages "none";
Acquire::Retries "2";
Dir::Cache "{folder}";
Dir::Cache::archives "{folder}/archives";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::Etc::SourceList "{folder}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Trusted "/dev/null";
Dir::Etc::TrustedParts "/dev/null";
Dir::State "{folder}";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
"""
# The user that apt fetches as could not enter the folder.
_UNCONFINED = 'APT::Sandbox::User "root";\n'


def _fetch_error(error: commands.CommandError) -> DownloadError | PackageError:
    if any(word in error.output for word in _SIGNATURE_WORDS):
        return PackageError(
            f"{error}\nThe keys in {find_keyring()} did not sign this: bring them up to date "
            "(apt-get install debian-archive-keyring)"
        )
    if "Could not get lock" in error.output:
        return DownloadError(f"{error}\nAnother installation is running: try again when it is done")
    return DownloadError(f"{error}\nLook at the network, the clock and the proxy, and try again")


def _is_open_to_all(folder: Path) -> bool:
    return all(each.stat().st_mode & 0o001 for each in (folder, *folder.parents))


def _architecture() -> str:
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        raise PackageError(f"Debian has no packages of engines for {machine}")
    return _ARCHITECTURES[machine]


def _parse_packages(text: str) -> Iterator[Package]:
    for paragraph in re.split(r"\n{2,}", text.strip()):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", paragraph, re.MULTILINE))
        try:
            yield Package(
                fields["Package"],
                fields["Version"],
                fields["Architecture"],
                int(fields["Size"]),
                int(fields["Installed-Size"]) << 10,
                fields["SHA256"],
            )
        except KeyError as error:
            name = fields.get("Package", "a package")
            raise PackageError(f"the archive's index says no {error.args[0]} of {name}") from error


def _check(path: Path, package: Package) -> None:
    """A file that a kill or a power cut left behind is whole only if its digest says so."""
    import hashlib

    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        digest = "missing"
    if digest != package.sha256:
        with suppress(FileNotFoundError):
            path.unlink()
        raise DownloadError(
            f"{package.file_name} is not what the archive's index says it is; it was removed: try again"
        )
