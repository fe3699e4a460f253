"""Where `limpet upgrade` gets a version from: a folder, a wheel, a bundle, or an index."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from limpet.errors import DeniedError, NotFoundError
from limpet.upgrade.install import Source, find_wheels, require_free, wheel_version
from limpet.upgrade.layout import check_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limpet.api.client import Client
    from limpet.bundle.reading import Bundle
    from limpet.cli.terminal import StatusLine
    from limpet.upgrade.layout import Prefix


class UntrustedWheelsError(DeniedError):
    """A bundle's wheels are not signed by anybody whom the node trusts."""

    reason = "UntrustedBundle"


def is_bundle(text: str) -> bool:
    """Whether a command line names a bundle: what is there, and is no folder and no wheel."""
    path = Path(text)
    return path.exists() and not path.is_dir() and path.suffix != ".whl"


@contextmanager
def open_source(
    text: str, *, place: Prefix, client: Client, status: StatusLine, require_signature: bool
) -> Iterator[Source]:
    """The version that a command line names; a bundle's wheels are files in `place` while it is open.

    Raises LimpetError, OSError. Who opens a bundle has the lock of `place`. `client` is the node's that
    judges bundles.
    """
    path = Path(text)
    if is_bundle(text):
        with _unpacked(path, place, client, status, require_signature=require_signature) as folder:
            yield find_wheels(folder)
        return
    if not path.exists() and (path.suffix == ".whl" or "/" in text):
        raise NotFoundError(f"there is no {text}: expected a folder of wheels, a wheel or a bundle")
    if require_signature:
        raise UntrustedWheelsError(
            f"{text} is no bundle, and nothing else is signed; nothing was changed. "
            "`limpet bundle create --wheels DIR --sign KEY` makes one"
        )
    if path.is_dir():
        yield find_wheels(path.absolute())
    elif path.suffix == ".whl":
        yield Source(version=wheel_version(path), wheel=path.absolute())
    else:
        yield Source(version=check_version(text))


@contextmanager
def _unpacked(
    path: Path, place: Prefix, client: Client, status: StatusLine, *, require_signature: bool
) -> Iterator[Path]:
    """A folder with the wheels of a bundle, all of which was verified."""
    from limpet.bundle.reading import BundleFile

    with BundleFile(path) as opened:
        found = opened.verify(
            on_progress=lambda done: status.show_progress(
                "verifying", done=done, total=max(done, opened.size_bytes)
            )
        )
        wheels = found.contents.wheels
        if not wheels:
            raise NotFoundError(
                f"{path} has no wheels; `limpet bundle create --wheels DIR` puts them in"
            )
        _judge(client, path, found, require_signature=require_signature)
        require_free(place.path, sum(blob.size for blob in wheels), f"what {path.name} unpacks to")
        with place.scratch() as folder:
            for blob in wheels:
                with (folder / blob.title).open("xb") as file:
                    opened.copy_blob(blob, file)
            yield folder


def _judge(client: Client, path: Path, found: Bundle, *, require_signature: bool) -> None:
    """Have the node judge a bundle: its setting may refuse it, whatever the command line asks for."""
    from limpet.api.exchange import NodeNotRunningError

    try:
        signed_by = client.judge_bundle(
            index=found.index, manifest=found.manifest, signature=found.signature
        )["signed_by"]
        why = "is signed by nobody whom the node trusts"
    except NodeNotRunningError:
        signed_by, why = None, "can't be judged while no node runs"
    if require_signature and signed_by is None:
        raise UntrustedWheelsError(
            f"{path} {why}; nothing was changed. Trusted are the keys of the node's setting bundles.keys"
        )
