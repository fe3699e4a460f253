"""Where `limpet upgrade` gets a version from: a folder, a wheel, a bundle, or an index."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from limpet.errors import DeniedError, NotFoundError
from limpet.upgrade.install import Source, find_wheels, wheel_version
from limpet.upgrade.layout import check_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limpet.api.client import Client
    from limpet.cli.terminal import StatusLine


class UntrustedWheelsError(DeniedError):
    """A bundle's wheels are not signed by anybody whom the node trusts."""

    reason = "UntrustedBundle"


def is_bundle(text: str) -> bool:
    """Whether a command line names a bundle: a file that is no wheel."""
    path = Path(text)
    return path.is_file() and path.suffix != ".whl"


@contextmanager
def open_source(
    text: str,
    *,
    space: Path,
    client: Client | None,
    status: StatusLine,
    require_signature: bool,
) -> Iterator[Source]:
    """The version that a command line names; a bundle's wheels are files while it is open.

    Raises LimpetError, OSError. They lie in the folder `space`. `client` is the node's that knows whom to
    trust; None asks nobody.
    """
    path = Path(text)
    if path.is_dir():
        yield find_wheels(path.absolute())
    elif path.suffix == ".whl":
        if not path.exists():
            raise NotFoundError(f"there is no wheel {path}")
        yield Source(version=wheel_version(path), wheel=path.absolute())
    elif path.exists():
        space.mkdir(mode=0o755, parents=True, exist_ok=True)
        with _unpacked(path, space, client, status, require_signature=require_signature) as folder:
            yield find_wheels(folder)
    elif "/" in text:
        raise NotFoundError(f"there is no {text}: expected a folder of wheels, a wheel or a bundle")
    else:
        yield Source(version=check_version(text))


@contextmanager
def _unpacked(
    path: Path, space: Path, client: Client | None, status: StatusLine, *, require_signature: bool
) -> Iterator[Path]:
    """A folder with the wheels of a bundle, all of which was verified."""
    from tempfile import TemporaryDirectory

    from limpet.bundle.reading import BundleFile

    with (
        BundleFile(path) as opened,
        TemporaryDirectory(prefix=".wheels-", dir=space) as folder,
    ):
        found = opened.verify(
            on_progress=lambda done: status.show_progress(
                "verifying", done=done, total=max(done, opened.size_bytes)
            )
        )
        if not found.contents.wheels:
            raise NotFoundError(
                f"{path} has no wheels; `limpet bundle create --wheels DIR` puts them in"
            )
        if require_signature:
            _require_trust(client, path, found.index, found.manifest, found.signature)
        for blob in found.contents.wheels:
            with (Path(folder) / blob.title).open("xb") as file:
                opened.copy_blob(blob, file)
        yield Path(folder)


def _require_trust(
    client: Client | None, path: Path, index: bytes, manifest: bytes, signature: str | None
) -> None:
    told = (
        client.judge_bundle(index=index, manifest=manifest, signature=signature)
        if client is not None
        else {"signed_by": None}
    )
    if told["signed_by"] is None:
        raise UntrustedWheelsError(
            f"{path} is signed by nobody whom the node trusts; nothing was changed. Trusted are the keys of "
            "the node's setting bundles.keys"
        )
