"""`limpet pull`: a module out of a registry, as a file. A cut download is gone on with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from limpet.cli.options import examples
from limpet.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    from limpet.registry.client import Registry
    from limpet.registry.sink import Sink


@click.command(
    epilog=examples(
        "limpet pull ghcr.io/acme/app:1",
        "limpet pull ghcr.io/acme/app:1 -o app.wasm",
        "limpet pull localhost:5000/app@sha256:... --json",
    )
)
@click.argument("image", metavar="REF")
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(), help="Default: the repository's name."
)
@click.option("--ca-file", metavar="PEM", type=click.Path(), help="More certificates to trust.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def pull(*, image: str, output: str | None, ca_file: str | None, is_json: bool) -> None:
    """Pull the module of the image REF into a file.

    Formats are those that a node takes. What an interrupted pull left is gone on with. Signatures are not
    checked: that is the policy of a node.
    """
    from pathlib import Path

    from limpet.cli.registry_access import open_registry
    from limpet.cli.render import write_json
    from limpet.cli.units import format_size

    registry = open_registry(image, actions="pull", authority=ca_file)
    name = registry.reference.repository.rpartition("/")[2]
    path = Path(output or f"{name}.wasm")
    manifest, sink = download_image(registry, path)
    if is_json:
        write_json(
            {
                "reference": f"{registry.reference.name}@{manifest}",
                "digest": manifest,
                "module": sink.digest,
                "size_bytes": sink.size,
                "file": str(path),
            }
        )
        return
    click.echo(f"{path}: {format_size(sink.size)}, {sink.digest}")
    click.echo(f"{registry.reference.name}@{manifest}")


def download_image(registry: Registry, path: Path) -> tuple[str, Sink]:
    """Pull into hidden files beside the path, then give the one that has the module its name."""
    from limpet.cli.terminal import StatusLine
    from limpet.registry.pull import pull_module, read_image, resolve_digest
    from limpet.registry.sink import Sink
    from limpet.registry.transfer import Patience
    from limpet.store.modules import MAX_MODULE_BYTES

    patience = Patience()
    files = [path.with_name(f".{path.name}.{suffix}") for suffix in ("part", "note", "module")]
    try:
        descriptors = [
            os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644) for file in files
        ]
    except OSError as error:
        raise InvalidInputError(f"can't write {path}: {error.strerror}") from error
    partial = Sink(descriptors[0], MAX_MODULE_BYTES, notes=descriptors[1])
    module = Sink(descriptors[2], MAX_MODULE_BYTES)
    with StatusLine() as status:
        status.show(f"asking for {registry.reference}")
        data, digest = resolve_digest(registry, registry.reference.version, patience)
        image = read_image(registry, data, digest, patience=patience, wants_signatures=False)
        sink = pull_module(
            registry,
            image.content,
            partial,
            module,
            patience=patience,
            report=lambda done, total: status.show_progress(
                f"pulling {registry.reference.name}", done=done, total=total or done
            ),
        )
    files[0 if sink is partial else 2].replace(path)
    for file, descriptor in zip(files, descriptors, strict=True):
        os.close(descriptor)
        file.unlink(missing_ok=True)
    return digest, sink
