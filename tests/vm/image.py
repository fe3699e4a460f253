"""The VM's kernel and system, cached: a Debian tree that was never booted, and its kernel.

The kernel's flavour for clouds has NVMe and ext4 built in, so the VM needs no initial ramdisk's help.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from debian import Archive, open_archive, unpack
from host import StepError, cache_folder, run, say, step

SUITE = "trixie"
PYTHON = "3.13"
_PACKAGES = (
    *("base-files", "bash", "coreutils", "dash", "findutils", "grep", "hostname", "libc-bin"),
    *("mount", "sed", "util-linux"),
    *("e2fsprogs", "iproute2", "kmod", "nftables", "procps"),
    *("python3", "python3-venv"),
    "wasmedge",  # the second engine, as a device's owner installs it
)
_NEEDLESS = ("usr/share/doc", "usr/share/i18n", "usr/share/locale", "usr/share/man")
_GUEST = Path(__file__).parent / "guest"
_ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost limpet-vm\n::1 localhost\n",
    "etc/hostname": "limpet-vm\n",
}
# What the tests are about; `kernel_options` says which of them a kernel has.
_OPTIONS = (
    *("CFS_BANDWIDTH", "CGROUP_PIDS", "MEMCG", "PSI"),
    *("NET_NS", "PID_NS", "USER_NS", "SECCOMP_FILTER", "SECURITY_LANDLOCK"),
    *("BLK_DEV_LOOP", "FS_ENCRYPTION", "CRYPTO_ADIANTUM", "CRYPTO_XTS", "CRYPTO_CTS"),
    *("NET_SCH_NETEM", "NF_TABLES", "QUOTA", "TUN", "VETH"),
)
# Without these the VM would not come up.
_BUILT_IN = ("BLK_DEV_NVME", "EXT4_FS", "VIRTIO_CONSOLE", "VIRTIO_PCI")


@dataclass(frozen=True, slots=True)
class Image:
    """A cached system: `tree` is its root folder, `kernel` what QEMU starts."""

    folder: Path

    @property
    def tree(self) -> Path:
        return self.folder / "tree"

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initial_root(self) -> Path:
        return self.folder / "initial-root.cpio"


def _recipe() -> str:
    """Digest everything in this folder that an image is made by."""
    digest = hashlib.sha256()
    for path in (Path(__file__), _GUEST.parent / "debian.py", _GUEST / "init"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def find_image() -> Image | None:
    """Return the newest image that this recipe has made."""
    found = cache_folder().glob(f"vm-{_recipe()}-{SUITE}-*/vmlinuz")
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    return newest and Image(newest.parent)


def build_image() -> Image:
    """Return an image of the distribution's current kernel; earlier images are removed."""
    cache = cache_folder()
    with tempfile.TemporaryDirectory(prefix="vm-new-", dir=cache) as name:
        work = Path(name)
        with step("package index"):
            archive = open_archive(work / "apt", suite=SUITE, architecture="arm64")
            kernel = archive.dependency("linux-image-cloud-arm64", "linux-image-")
        release = kernel.removeprefix("linux-image-")
        image = Image(cache / f"vm-{_recipe()}-{SUITE}-{release}")
        if image.kernel.exists():
            say(f"{image.folder.name} is the newest")
            return image
        new = Image(work / "new")
        new.tree.mkdir(parents=True)
        _unpack_system(archive, new)
        _unpack_kernel(archive, kernel, release, new)
        shutil.rmtree(image.folder, ignore_errors=True)
        new.folder.rename(image.folder)
    for other in cache.glob("vm-*-*-*"):
        if other != image.folder and not other.name.startswith("vm-new-"):
            shutil.rmtree(other, ignore_errors=True)
    return image


def _unpack_system(archive: Archive, image: Image) -> None:
    with step("download of the system"):
        packages = archive.download_with_dependencies(_PACKAGES)
    with step(f"{len(packages)} packages unpacked"):
        unpack(packages, image.tree)
        for needless in _NEEDLESS:
            shutil.rmtree(image.tree / needless, ignore_errors=True)
        for path, text in _ACCOUNTS.items():
            (image.tree / path).write_text(text)
        (image.tree / "etc/mtab").symlink_to("/proc/self/mounts")
        for folder in ("job", "mnt", "opt", "srv"):
            (image.tree / folder).mkdir(exist_ok=True)
        init = image.tree / "usr/sbin/init"
        shutil.copyfile(_GUEST / "init", init)
        init.chmod(0o755)


def _unpack_kernel(archive: Archive, package: str, release: str, image: Image) -> None:
    with step(f"kernel {release}"):
        unpacked = archive.folder / "kernel"
        unpack([archive.download(package)], unpacked)
        _check_options((unpacked / f"boot/config-{release}").read_text())
        modules = Path("usr/lib/modules")
        shutil.copytree(unpacked / modules, image.tree / modules, symlinks=True)
        run(["depmod", "--basedir", image.tree / "usr", release])
        image.initial_root.write_bytes(_cpio_of_folder("proc") + _cpio_of_end())
        (unpacked / f"boot/vmlinuz-{release}").rename(image.kernel)


# A device's system may be its initial ramdisk itself. Tests look at the root that every kernel starts
# with, below the disk; one folder is added there. As it holds no `init` the kernel goes on to the disk.


def _cpio_of_folder(name: str) -> bytes:
    return _cpio_entry(name, mode=0o40755, links=2)


def _cpio_of_end() -> bytes:
    return _cpio_entry("TRAILER!!!", mode=0, links=1)


def _cpio_entry(name: str, *, mode: int, links: int) -> bytes:
    """Return an entry without content (kernel: early-userspace/buffer-format.rst)."""
    number = modified = size = 0
    fields = (number, mode, 0, 0, links, modified, size, 0, 0, 0, 0, len(name) + 1, 0)
    entry = b"070701" + b"".join(b"%08X" % value for value in fields) + name.encode() + b"\0"
    return entry + bytes(-len(entry) % 4)


def _check_options(config: str) -> None:
    """Refuse a kernel that can't boot here, and name what it can't be tested for."""
    options = dict(re.findall(r"^CONFIG_(\w+)=([ym])$", config, re.MULTILINE))
    missing = [name for name in _BUILT_IN if options.get(name) != "y"]
    if missing:
        raise StepError(f"the kernel has not built in: {', '.join(missing)}")
    lacking = [name for name in _OPTIONS if name not in options]
    say(f"the kernel has all that is tested, but for: {', '.join(lacking) or 'nothing'}")


def make_disk(content: Path, disk: Path, *, megabytes: int) -> None:
    """Write a folder's content to a new ext4 disk, everything owned by root."""
    disk.unlink(missing_ok=True)
    mkfs = ["mkfs.ext4", "-q", "-F", "-O", "encrypt", "-E", "root_owner=0:0", "-d", content]
    as_root = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
    run([*as_root, *mkfs, disk, f"{megabytes}M"])
