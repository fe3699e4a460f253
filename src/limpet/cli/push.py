"""`limpet push`: a module into a registry, as the artifact that every Wasm runtime knows, perhaps signed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

import click

from limpet.cli.options import examples
from limpet.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from limpet.registry.push import Artifact

_PASSPHRASE_VARIABLES = ("LIMPET_SIGNING_PASSPHRASE", "COSIGN_PASSWORD")
_MAGIC = b"\0asm"
_CHUNK = 1 << 20


@click.command(
    epilog=examples(
        "limpet push app.wasm ghcr.io/acme/app:1",
        "limpet push app.wasm ghcr.io/acme/app:1 --sign cosign.key",
        "limpet push app.wasm localhost:5000/app:1 --annotation org.opencontainers.image.version=1.2",
        "limpet push app.wasm ghcr.io/acme/app:1 --json | jq -r .reference",
    )
)
@click.argument("file", type=click.Path())
@click.argument("image", metavar="REF")
@click.option(
    "--sign",
    "key_file",
    metavar="KEY",
    type=click.Path(),
    help="Sign with this private key: cosign's, or PKCS #8 PEM. "
    "Its passphrase is asked for, or read from LIMPET_SIGNING_PASSPHRASE or COSIGN_PASSWORD.",
)
@click.option(
    "--annotation", "annotations", metavar="KEY=VALUE", multiple=True, help="Of the manifest."
)
@click.option("--ca-file", metavar="PEM", type=click.Path(), help="More certificates to trust.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def push(
    *,
    file: str,
    image: str,
    key_file: str | None,
    annotations: tuple[str, ...],
    ca_file: str | None,
    is_json: bool,
) -> None:
    """Push the module FILE to the registry as REF.

    Credentials are docker's: `docker login`, or $DOCKER_CONFIG/config.json. Prints the reference with
    the digest that a manifest can pin.
    """
    from pathlib import Path

    from limpet.cli.registry_access import open_registry
    from limpet.cli.render import write_json
    from limpet.cli.terminal import StatusLine
    from limpet.registry.push import push_artifact, push_signature
    from limpet.registry.transfer import Patience

    sign = _load_signer(Path(key_file)) if key_file else None
    registry = open_registry(image, actions="pull,push", authority=ca_file)
    reference = registry.reference
    if reference.digest:
        raise click.UsageError("push to a tag: the digest is what comes out")
    artifact = _describe(Path(file), _parse_annotations(annotations))
    patience = Patience()
    with StatusLine() as status, _open(Path(file)) as module:
        push_artifact(
            registry,
            artifact,
            module,
            patience=patience,
            report=lambda done, total: status.show_progress(
                f"pushing {reference.name}", done=done, total=total
            ),
        )
        if sign is not None:
            status.show("signing")
            push_signature(registry, artifact.digest, sign, patience=patience)
    pinned = f"{reference.name}@{artifact.digest}"
    if is_json:
        write_json(
            {
                "reference": pinned,
                "tag": reference.tag,
                "digest": artifact.digest,
                "module": artifact.layer.digest,
                "size_bytes": artifact.layer.size,
                "is_signed": sign is not None,
            }
        )
        return
    click.echo(f"pushed {reference}{', signed' if sign is not None else ''}")
    click.echo(pinned)


def _describe(path: Path, annotations: Mapping[str, str]) -> Artifact:
    import hashlib
    from datetime import UTC, datetime

    from limpet.cli.units import format_size
    from limpet.registry.push import make_artifact
    from limpet.store.modules import MAX_MODULE_BYTES

    with _open(path) as module:
        size = os.fstat(module.fileno()).st_size
        if size > MAX_MODULE_BYTES:
            raise InvalidInputError(
                f"{path} is larger than {format_size(MAX_MODULE_BYTES)}, which no module may be"
            )
        content = module.read(MAX_MODULE_BYTES)
        changed_at = os.fstat(module.fileno()).st_mtime
    if not content.startswith(_MAGIC):
        raise InvalidInputError(f"{path} is not WebAssembly; see `limpet inspect {path}`")
    return make_artifact(
        digest=f"sha256:{hashlib.sha256(content).hexdigest()}",
        size_bytes=len(content),
        name=path.name,
        created=datetime.fromtimestamp(int(changed_at), UTC).isoformat(),
        component=_interfaces(content),
        annotations=annotations,
    )


def _interfaces(content: bytes) -> Mapping[str, Sequence[str]] | None:
    """What a component imports and exports; None for a core module."""
    from limpet.engine.component_binary import is_component
    from limpet.engine.contents import read_contents

    if not is_component(content):
        return None
    contents, _ = read_contents(content)
    return {
        "imports": [group.source for group in contents.imports],
        "exports": [export.name for export in contents.exports],
    }


def _parse_annotations(texts: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--annotation")
        found[key] = value
    return found


def _load_signer(path: Path) -> Callable[[bytes], bytes]:
    from limpet.signing import MAX_KEY_BYTES, InvalidKeyError, load_private_key

    with _open(path) as file:
        text = file.read(MAX_KEY_BYTES + 1).decode("utf-8", "replace")
    passphrase = next(
        (os.environ[each] for each in _PASSPHRASE_VARIABLES if each in os.environ), None
    )
    is_encrypted = "ENCRYPTED" in text
    if is_encrypted and passphrase is None:
        passphrase = click.prompt(f"Passphrase of {path}", hide_input=True, err=True, default="")
    try:
        return load_private_key(text, passphrase if is_encrypted else None).sign
    except InvalidKeyError as error:
        raise InvalidKeyError(f"{path}: {error}") from error


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InvalidInputError(f"can't read {path}: {error.strerror}") from error
