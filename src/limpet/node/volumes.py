"""The folders that guests see: claimed volumes, scratch space, and files made from configuration.

Where the device can, a volume is an encrypted image of the declared size (`limpet.store.images`), and
files made from configuration lie in memory alone. Where it can't, all of them are plain folders, and the
node says so. Guests get open directories whose `..` leads nowhere.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from limpet.errors import LimpetError
from limpet.node.background import in_thread
from limpet.node.configuration_files import content_mark, write_files
from limpet.node.mounts import mounts_directory
from limpet.node.pressure import decide_kept
from limpet.node.volume_identity import Identity, read_identity
from limpet.provision.facilities import VolumeSupport, try_volumes
from limpet.store.files import make_directory, remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from limpet.manifest.model import Mount
    from limpet.node.keys import NodeKeys
    from limpet.plan import AppKey, PlannedMount
    from limpet.store.images import Usage, VolumeImage


# No claim can have such names.
_RETIRED = ".retired-"
_REWRITTEN = ".rewritten-"
_KEY_BYTES = 64


@dataclass(slots=True)
class _Open:
    """A folder that guests can be given: of an image, of a file system in memory, or a plain one."""

    descriptor: int
    image: VolumeImage | None = None
    memory: Path | None = None
    size_bytes: int = 0


class Volumes:
    """Makes, opens and removes the folders below a data directory.

    `volumes/NAMESPACE/CLAIM` outlives apps, `apps/NAMESPACE/NAME/...` goes with its app. `report` is
    told what happened to a volume, by its name. `free_bytes` is what the node keeps free of its disk.
    """

    def __init__(
        self,
        directory: Path,
        keys: NodeKeys,
        report: Callable[[str, str], None],
        *,
        free_bytes: int = 0,
    ) -> None:
        self._claims = directory / "volumes"
        self._apps = directory / "apps"
        self._mounts = mounts_directory(directory)
        self._keys = keys
        self._report = report
        self._free_bytes = free_bytes
        self._open: dict[Path, _Open] = {}
        self._support: VolumeSupport | None = None
        self._busy = asyncio.Lock()
        self._opening: set[asyncio.Future[None]] = set()
        self._held: dict[Path, asyncio.Event] = {}
        self._unopened: set[Path] = set()
        self._is_closing = False

    # Finding out

    async def support(self) -> VolumeSupport:
        """Return what this device can do, found out once by making a small volume."""
        # A caller that gives up leaves its thread at work: the next one must not begin beside it.
        return await asyncio.shield(self._find_support())

    async def _find_support(self) -> VolumeSupport:
        async with self._busy:
            if self._support is None:
                self._support = await in_thread(self._survey, name="volumes")
            return self._support

    @property
    def known_support(self) -> VolumeSupport | None:
        """What `support` found out; None while nobody has asked."""
        return self._support

    def _survey(self) -> VolumeSupport:
        if not self._mounts.is_mount():
            why_not = "the node does not run as root"
            return VolumeSupport(volumes=False, encryption=False, why_not=why_not)
        return try_volumes(self._mounts)

    # Opening

    async def prepare(
        self,
        key: AppKey,
        mounts: Sequence[PlannedMount],
        tell: Callable[[str, str, bool], None] = lambda _reason, _message, _is_warning: None,
    ) -> None:
        """Make and mount what an app needs, so that starting it opens nothing. Raises LimpetError.

        `tell` makes an event of the app.
        """
        for folder, mount in self._folders(key, mounts):
            while (held := self._held.get(folder)) is not None:
                await held.wait()
            # Whoever prepares may be told to begin anew, while what a thread makes goes on being made:
            # nobody else may make it beside that, with another key.
            opening = asyncio.ensure_future(self._have_open(folder, key, mount, tell))
            self._opening.add(opening)
            opening.add_done_callback(self._on_opened)
            await asyncio.shield(opening)

    async def _have_open(
        self,
        folder: Path,
        key: AppKey,
        mount: PlannedMount,
        tell: Callable[[str, str, bool], None],
    ) -> None:
        async with self._busy:
            found = self._open.get(folder)
            if self._is_closing:
                return  # whoever asked has been given up
            try:
                if found is None:
                    self._open[folder] = await self._make(folder, key, mount)
                elif found.size_bytes < (mount.size_bytes or 0):
                    await self._grow(folder, key, mount)
                else:
                    return
            except LimpetError as error:
                if error.reason == "VolumeReadOnly":
                    self._unopened.add(folder)
                raise
            self._unopened.discard(folder)
            if mount.kind == "PersistentVolumeClaim":
                _warn(self._open[folder], tell)

    def _on_opened(self, opening: asyncio.Future[None]) -> None:
        self._opening.discard(opening)
        if not opening.cancelled():
            opening.exception()  # whoever waits sees it; when nobody does any more, it comes again

    async def _grow(self, folder: Path, key: AppKey, mount: PlannedMount) -> None:
        """Open a folder anew, larger; when that can't be, as it was, for the guests that start next."""
        found = self._open.pop(folder)
        await in_thread(lambda: self._close(found), name="volumes")
        try:
            self._open[folder] = await self._make(folder, key, mount)
        except LimpetError:
            as_it_was = replace(mount, size_bytes=found.size_bytes)
            self._open[folder] = await self._make(folder, key, as_it_was)
            raise

    async def _make(self, folder: Path, key: AppKey, mount: PlannedMount) -> _Open:
        if mount.kind == "Files":
            return _Open(self._confine(_open_folder(write_files(folder, mount.files))))
        if mount.medium == "Memory" and self._mounts.is_mount():
            return await in_thread(lambda: self._open_memory(folder, mount), name="volumes")
        support = self._support or VolumeSupport(volumes=False, encryption=False)
        is_image = (folder / "volume.img").exists()
        is_plain = (folder / "data").is_dir()  # made when the device could do no better: it stays
        if is_image or (support.volumes and not is_plain):
            name = f"{key.namespace}/{mount.source}"
            return await in_thread(
                lambda: self._open_image(folder, mount, name, is_encrypted=support.encryption),
                name="volumes",
            )
        plain = _open_to_guests(make_directory(make_directory(folder) / "data"))
        return _Open(self._confine(_open_folder(plain)), size_bytes=mount.size_bytes or 0)

    def _open_image(
        self, folder: Path, mount: PlannedMount, name: str, *, is_encrypted: bool
    ) -> _Open:
        make_directory(folder)
        generation = self._keys.keyring.generation if is_encrypted else 0
        size_bytes = mount.size_bytes or 0
        identity = read_identity(folder, generation)
        if 0 < identity.generation < generation:
            self._encrypt_anew(folder, size_bytes, name)
            identity = read_identity(folder, generation)
        # A claim asks for storage; scratch space has a limit.
        is_promised = mount.kind == "PersistentVolumeClaim"
        kept_bytes = self._kept_bytes(folder) if is_promised else None
        image = self._image(folder, identity, size_bytes, name, kept_bytes=kept_bytes)
        return _Open(self._confine(image.open()), image, size_bytes=size_bytes)

    def _kept_bytes(self, folder: Path) -> int:
        found = os.statvfs(folder)
        return decide_kept(self._free_bytes, found.f_blocks * found.f_frsize)

    def _image(
        self,
        folder: Path,
        identity: Identity,
        size_bytes: int,
        name: str,
        *,
        kept_bytes: int | None = None,
        replaced_bytes: int = 0,
    ) -> VolumeImage:
        from limpet.store.images import VolumeImage

        key = None
        if identity.generation:
            purpose = f"volume/{identity.id}"
            key = self._keys.keyring.derive(purpose, _KEY_BYTES, generation=identity.generation)
        return VolumeImage(
            folder,
            self._mounts / "volumes" / identity.id,
            size_bytes=size_bytes,
            key=key,
            name=name,
            report=lambda message: self._report("VolumeRepaired", message),
            kept_bytes=kept_bytes,
            replaced_bytes=replaced_bytes,
        )

    def _encrypt_anew(self, folder: Path, size_bytes: int, name: str) -> None:
        """Exchange a volume of an earlier node key for a copy with a key of the newest.

        Not while guests of a node that died still write to it. What fails is tried again when the
        volume is opened next; until then the earlier key opens it.
        """
        from limpet.store.rewriting import copy_volume, exchange, is_in_use

        if is_in_use(folder / "volume.img"):
            return
        staged = folder.with_name(f"{_REWRITTEN}{folder.name}")
        try:
            remove_tree(staged)
            make_directory(staged)
            generation = self._keys.keyring.generation
            copy = self._image(
                staged,
                read_identity(staged, generation),
                size_bytes,
                name,
                replaced_bytes=os.stat(folder / "volume.img").st_blocks * 512,
            )
            copy_volume(self._image(folder, read_identity(folder, 0), size_bytes, name), copy)
            exchange(staged, folder)
            self._report("VolumeReencrypted", f"volume {name} has a key of generation {generation}")
        except (LimpetError, OSError) as error:
            self._report("VolumeNotReencrypted", f"volume {name} keeps its key for now: {error}")
        finally:
            remove_tree(staged)

    def _open_memory(self, folder: Path, mount: PlannedMount) -> _Open:
        from limpet.linux import mount as linux

        target = self._mounts / "memory" / hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
        make_directory(target)
        size_bytes = mount.size_bytes or 0
        flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
        if linux.find_mount(target) is not None:
            flags |= linux.MS_REMOUNT
        linux.mount("limpet", target, "tmpfs", flags=flags, data=f"size={size_bytes},mode=0777")
        return _Open(self._confine(_open_folder(target)), memory=target, size_bytes=size_bytes)

    def _confine(self, descriptor: int) -> int:
        """Return the folder as a mount of its own, if that can be: `..` ends there."""
        from limpet.linux.namespaces import confine_directory

        try:
            confined = confine_directory(descriptor)
        except PermissionError:
            return descriptor
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
        try:
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=confined)
        finally:
            os.close(confined)

    def open_mounts(self, key: AppKey, mounts: Sequence[PlannedMount]) -> list[int]:
        """Return one open directory per mount that was prepared; the caller closes them."""
        opened: list[int] = []
        try:
            for folder, mount in self._folders(key, mounts):
                found = self._open.get(folder)
                if found is None:
                    raise FileNotFoundError(errno.ENOENT, f"volume {mount.source} is not open")
                opened.append(os.dup(found.descriptor))
        except BaseException:
            for descriptor in opened:
                os.close(descriptor)
            raise
        return opened

    def _folders(
        self, key: AppKey, mounts: Sequence[PlannedMount]
    ) -> Iterator[tuple[Path, PlannedMount]]:
        for mount in mounts:
            if mount.kind == "PersistentVolumeClaim":
                yield self._claim(key, mount.source), mount
            elif mount.kind == "EmptyDir":
                yield self._empty(key, mount.source), mount
            else:
                yield self._files / key.namespace / key.name / content_mark(mount.files), mount

    def _claim(self, key: AppKey, name: str) -> Path:
        return self._claims / key.namespace / name

    def _empty(self, key: AppKey, name: str) -> Path:
        return self._apps / key.namespace / key.name / "empty" / name

    @property
    def _files(self) -> Path:
        """Where files from configuration are: in memory where that can be."""
        return (self._mounts if self._mounts.is_mount() else self._apps) / "files"

    # Care

    def usage(self, namespace: str, claim: str) -> Usage | None:
        """Return how full a volume is; None for one that is not open, or plain."""
        found = self._open.get(self._claims / namespace / claim)
        return found.image.usage() if found is not None and found.image is not None else None

    async def trim(self) -> int:
        """Give the blocks that guests have freed back to the disk; return how many bytes."""
        freed = 0
        for opened in list(self._open.values()):
            if opened.image is not None:
                async with self._busy:
                    if opened.image.is_open:
                        freed += await in_thread(opened.image.trim, name="volumes")
        return freed

    # Removing

    def remove_app(self, key: AppKey) -> None:
        """Remove what was an app's own."""
        for folder in (self._apps, self._files):
            self._remove(folder / key.namespace / key.name)

    def retire_claim(self, namespace: str, name: str) -> None:
        """Take a volume's name away at once; guests that still drain keep the folder they opened."""
        folder = self._claims / namespace / name
        if folder.exists():
            retired = folder.with_name(f"{_RETIRED}{os.urandom(8).hex()}")
            folder.rename(retired)
            if folder in self._open:
                self._open[retired] = self._open.pop(folder)

    def remove_retired(self) -> None:
        """Remove the volumes whose names were taken away, and everything in them."""
        for folder in self._claims.glob(f"*/{_RETIRED}*"):
            self._remove(folder)

    def remove_leftovers(self) -> None:
        """Remove what a node that was killed has left half done. For the start of a node."""
        self.remove_retired()
        for folder in (
            *self._claims.glob(f"*/{_REWRITTEN}*"),
            *self._apps.glob(f"*/*/empty/{_REWRITTEN}*"),
        ):
            remove_tree(folder)

    # Volumes that became read-only

    def find_read_only(self) -> frozenset[Path]:
        """Return the folders that can't be written to, or opened, before their users have ended."""
        images = {
            os.path.realpath(opened.image.mount_point): folder
            for folder, opened in self._open.items()
            if opened.image is not None
        }
        if not images:
            return frozenset(self._unopened)
        from limpet.store.images import find_read_only

        return frozenset(images[point] for point in find_read_only(images)) | self._unopened

    def is_open(self, folder: Path) -> bool:
        """Whether guests can be given a folder."""
        return folder in self._open

    def is_set_aside(self, folder: Path) -> bool:
        """Whether an open volume has all its space on the disk."""
        found = self._open.get(folder)
        return found is not None and found.image is not None and found.image.is_set_aside

    def uses(self, folder: Path, key: AppKey, mounts: Iterable[Mount]) -> bool:
        """Whether an app with these mounts has this folder."""
        return any(
            (mount.kind == "PersistentVolumeClaim" and folder == self._claim(key, mount.source))
            or (mount.kind == "EmptyDir" and folder == self._empty(key, mount.source))
            for mount in mounts
        )

    def hold(self, folder: Path) -> None:
        """Let nobody prepare a folder before `release`."""
        self._held[folder] = asyncio.Event()

    def release(self, folder: Path) -> None:
        """Let it be opened again."""
        self._held.pop(folder).set()

    async def shut(self, folder: Path) -> None:
        """Unmount a folder that no guest uses: it is checked when it is opened next."""
        async with self._busy:
            self._unopened.discard(folder)
            found = self._open.pop(folder, None)
            if found is not None:
                await in_thread(lambda: self._close(found), name="volumes")

    async def close(self) -> None:
        """Unmount everything, also what a thread still opens; no guest is left."""
        self._is_closing = True
        if self._opening:
            await asyncio.wait(self._opening)
        for opened in self._open.values():
            self._close(opened)
            _remove_memory(opened)
        self._open.clear()

    def _remove(self, folder: Path) -> None:
        for path in [path for path in self._open if path.is_relative_to(folder)]:
            opened = self._open.pop(path)
            self._close(opened)
            _remove_memory(opened)
        remove_tree(folder)

    def _close(self, opened: _Open) -> None:
        os.close(opened.descriptor)
        if opened.image is not None:
            try:
                opened.image.close()
            except LimpetError as error:
                self._report("VolumeNotClosed", str(error))


def _warn(opened: _Open, tell: Callable[[str, str, bool], None]) -> None:
    """Tell of a claim's volume whose space is promised to others as well."""
    image = opened.image
    if image is not None and not image.is_set_aside:
        tell(
            "VolumeNotSetAside",
            f"the disk has no room to set volume {image.name} aside: should the disk fill, the app "
            "can't write to it. Free some space on the disk, or ask for a smaller volume",
            True,
        )


def _remove_memory(opened: _Open) -> None:
    """Take a file system in memory away; it goes, with what is in it, when no guest uses it."""
    if opened.memory is not None:
        from limpet.linux import mount

        mount.unmount(opened.memory, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
        opened.memory.rmdir()


def _open_folder(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _open_to_guests(folder: Path) -> Path:
    """Let every user in who has the folder open: the way to it stays closed."""
    folder.chmod(0o777)
    return folder
