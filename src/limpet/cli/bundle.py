"""`limpet bundle`: everything that some apps need in one file, for a node without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from limpet.cli.options import (
    connect,
    duration_option,
    examples,
    namespace_option,
    output_option,
    socket_option,
)
from limpet.cli.render import Column, write_fields, write_json, write_table, write_title
from limpet.cli.terminal import StatusLine, warning
from limpet.cli.units import format_size
from limpet.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limpet.api.answers import ApplyItem, Json
    from limpet.api.client import Client
    from limpet.bundle.layout import Blob
    from limpet.bundle.reading import Bundle, BundleFile
    from limpet.bundle.writing import Plan
    from limpet.cli.manifests import Manifest

_SHORT_DIGEST = 19
_COMPILE_SECONDS = 660.0


@click.group(
    no_args_is_help=True,
    epilog=examples(
        "limpet bundle create -f shop/ -o shop.bundle",
        "limpet bundle inspect shop.bundle",
        "limpet bundle apply /media/stick/shop.bundle",
    ),
)
def bundle() -> None:
    """Carry apps to nodes without a network: manifests, modules and more in one file."""


@bundle.command(
    epilog=examples(
        "limpet bundle create -f shop/ -o shop.bundle",
        "limpet bundle create -f shop/ -o shop.bundle --sign site.key",
        "limpet bundle create -f shop/ -o shop.bundle --sign site.key --compiled",
        "limpet bundle create -f shop/ -o shop.bundle --wheels dist/",
    )
)
@click.option(
    "-f",
    "--filename",
    "sources",
    metavar="FILE|DIR|-",
    multiple=True,
    required=True,
    type=click.Path(),
    help="A manifest, a folder of them, or - for stdin. May be given again.",
)
@click.option(
    "-o", "--output", metavar="FILE", required=True, type=click.Path(), help="The bundle to write."
)
@click.option("--compiled", is_flag=True, help="Add code compiled by the node, for its like.")
@click.option("--wheels", metavar="DIR", help="Add the wheels in this folder.")
@click.option("--sign", metavar="KEY", help="Sign with this private key (PEM, or cosign's).")
@click.option(
    "--passphrase-fd",
    metavar="N",
    type=click.IntRange(min=0),
    help="Read the key's passphrase from this descriptor.",
)
@namespace_option
@socket_option
def create(
    sources: tuple[str, ...],
    *,
    output: str,
    compiled: bool,
    wheels: str | None,
    sign: str | None,
    passphrase_fd: int | None,
    namespace: str | None,
    socket: str | None,
) -> None:
    """Write a bundle of manifests and of the modules they name. Needs no node where modules are files;
    other modules, and compiled code, come from the node. The same contents make the same bytes.
    """
    from tempfile import TemporaryDirectory

    from limpet.bundle.writing import write_bundle
    from limpet.cli.manifests import read_manifests

    manifests = read_manifests(sources, namespace=namespace)
    signer = _load_signer(Path(sign), passphrase_fd) if sign else None
    target = Path(output).absolute()
    client = connect(socket, timeout_seconds=_COMPILE_SECONDS)
    _check_folder(target.parent)
    with (
        StatusLine() as status,
        TemporaryDirectory(prefix=".limpet-bundle-", dir=target.parent) as folder,
    ):
        status.show("gathering modules")
        plan = _plan(manifests, client, Path(folder), is_compiled=compiled, wheels=wheels)
        status.show(f"writing {target.name}")
        written = write_bundle(target, plan, sign=signer)
    contents = written.contents
    counts = [
        _counted(len(manifests), "object"),
        _counted(len(contents.modules), "module"),
        *([_counted(len(contents.compiled), "compiled module")] if contents.compiled else []),
        *([_counted(len(contents.wheels), "wheel")] if contents.wheels else []),
        "signed" if sign else "not signed",
    ]
    click.echo(f"{output}: {format_size(written.size_bytes)}, {', '.join(counts)}")
    click.echo(written.digest)


@bundle.command(
    epilog=examples(
        "limpet bundle inspect shop.bundle",
        "limpet bundle inspect shop.bundle --key site.pub",
        "limpet bundle inspect shop.bundle -o json | jq -r .digest",
    )
)
@click.argument("file", type=click.Path())
@click.option("--key", "keys", metavar="FILE", multiple=True, help="Whose signature to look for.")
@output_option("text", "json")
def inspect(file: str, *, keys: tuple[str, ...], output: str | None) -> None:
    """Verify a bundle and show what is in it. Needs no node."""
    from limpet.bundle.reading import BundleFile

    with BundleFile(Path(file)) as opened:
        found = _verify(opened)
        told = _describe(found, opened.size_bytes, _find_signer(found, keys))
    if output == "json":
        write_json(told)
        return
    _write_description(told)


@bundle.command(
    name="apply",
    epilog=examples(
        "limpet bundle apply /media/stick/shop.bundle",
        "limpet bundle apply shop.bundle --dry-run",
        "limpet bundle apply shop.bundle --require-signature",
    ),
)
@click.argument("file", type=click.Path())
@click.option("--dry-run", is_flag=True, help="Verify it, say what would change, change nothing.")
@click.option(
    "--require-signature",
    is_flag=True,
    help="Refuse it unless it is signed by a key of the node's setting bundles.keys.",
)
@click.option("--wait/--no-wait", default=True, help="Wait until apps run. Default: wait.")
@duration_option("--timeout", default="60s", help="How long to wait. Default: 60s.")
@output_option("text", "json", "name")
@socket_option
def apply_bundle(
    file: str,
    *,
    dry_run: bool,
    require_signature: bool,
    wait: bool,
    timeout: float,
    output: str | None,
    socket: str | None,
) -> None:
    """Bring a bundle's modules and objects to the node: all of them, or none. Needs no network.

    All of it is verified before anything is changed; what was interrupted can be run again.
    """
    from limpet.bundle.reading import BundleFile
    from limpet.cli.apply import finish_apply, show_warnings

    client = connect(socket)
    with BundleFile(Path(file)) as opened, StatusLine() as status:
        found = _verify(opened, status=status)
        wanted = _judge(client, found, require_signature=require_signature)
        if not dry_run:
            _upload_modules(client, opened, found, status=status)
            _upload_compiled(client, opened, found, wanted, status=status)
        status.clear()
        items: list[ApplyItem] = []
        for entry in found.objects:
            item: ApplyItem = {"object": entry.object}
            if entry.digest is not None:
                item["digest"] = entry.digest
            if entry.evidence is not None:
                item["evidence"] = entry.evidence
            items.append(item)
        results = client.apply(items, dry_run=dry_run)
        status.clear()
        show_warnings(results)
        finish_apply(
            client,
            results,
            dry_run=dry_run,
            is_waiting=wait,
            timeout_seconds=timeout,
            output=output,
            status=status,
        )


def _plan(
    manifests: Sequence[Manifest],
    client: Client,
    folder: Path,
    *,
    is_compiled: bool,
    wheels: str | None,
) -> Plan:
    from limpet.bundle.layout import ObjectEntry
    from limpet.bundle.writing import Plan
    from limpet.cli.bundle_evidence import gather_evidence
    from limpet.cli.bundle_sources import compile_modules, gather_modules, gather_wheels

    modules = gather_modules(manifests, client, folder)
    return Plan(
        objects=[
            ObjectEntry(
                object=manifest.object,
                digest=module.blob.digest if module else None,
                evidence=evidence,
            )
            for manifest, module, evidence in zip(
                manifests, modules, gather_evidence(manifests, modules, client), strict=True
            )
        ],
        modules=[module for module in modules if module is not None],
        compiled=compile_modules(manifests, modules, client, folder) if is_compiled else (),
        wheels=gather_wheels(Path(wheels)) if wheels else (),
    )


def _check_folder(folder: Path) -> None:
    """See that the bundle's folder is there before work is done."""
    if not folder.is_dir():
        raise NotFoundError(f"{folder}: there is no such folder to write the bundle to")


def _verify(opened: BundleFile, *, status: StatusLine | None = None) -> Bundle:
    def show(done: int) -> None:
        if status is not None:
            status.show_progress("verifying", done=done, total=max(done, opened.size_bytes))

    return opened.verify(on_progress=show)


def _judge(client: Client, found: Bundle, *, require_signature: bool) -> set[str]:
    """Whose it is, by the node's settings; which compiled code the node wants."""
    from limpet.bundle.errors import UntrustedBundleError

    told = client.judge_bundle(
        index=found.index, manifest=found.manifest, signature=found.signature
    )
    if told["signed_by"] is None:
        state = (
            "is not signed" if found.signature is None else "is signed by nobody the node trusts"
        )
        if require_signature:
            raise UntrustedBundleError(
                f"the bundle {state}; nothing was changed. Trusted are the keys of the node's "
                "setting bundles.keys"
            )
        if found.contents.compiled:
            warning(f"the bundle {state}: its compiled code is left out, the node compiles itself")
    return set(told["wanted"])


def _upload_modules(
    client: Client, opened: BundleFile, found: Bundle, *, status: StatusLine
) -> None:
    """Send the modules that the node lacks."""
    for blob in {blob.digest: blob for blob in found.contents.modules}.values():
        if client.has_module(blob.digest):
            continue

        def show(done: int, blob: Blob = blob) -> None:
            status.show_progress(f"uploading {blob.title}", done=done, total=blob.size)

        client.upload_module(
            blob.digest, opened.open_blob(blob), size_bytes=blob.size, on_progress=show
        )


def _upload_compiled(
    client: Client, opened: BundleFile, found: Bundle, wanted: set[str], *, status: StatusLine
) -> None:
    for blob in found.contents.compiled:
        if blob.digest in wanted:
            status.show("uploading compiled code")
            client.upload_compiled(blob.digest, opened.open_blob(blob), size_bytes=blob.size)


def _load_signer(path: Path, passphrase_fd: int | None) -> Callable[[bytes], str]:
    """What signs an index: base64, as `cosign verify-blob` takes it."""
    import base64

    from limpet.signing import MAX_KEY_BYTES, InvalidKeyError, load_private_key

    try:
        with path.open("rb") as file:
            text = file.read(MAX_KEY_BYTES + 1).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidKeyError(f"{path}: can't read it: {error}") from error
    passphrase = None
    if "ENCRYPTED" in text:
        from limpet.cli.passphrase import obtain

        passphrase = obtain(passphrase_fd).decode("utf-8", "surrogateescape")
    key = load_private_key(text, passphrase)
    return lambda data: base64.b64encode(key.sign(data)).decode()


def _find_signer(found: Bundle, keys: Sequence[str]) -> str | None:
    """The fingerprint of the key, of those in these files, whose signature the bundle has."""
    if found.signature is None or not keys:
        return None
    import base64
    import binascii

    from limpet.signing import InvalidKeyError, load_public_keys

    try:
        texts = [Path(name).read_text("ascii") for name in keys]
        signature = base64.b64decode(found.signature, validate=True)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidKeyError(f"--key: can't read it: {error}") from error
    except (binascii.Error, ValueError):
        return None
    trusted = load_public_keys(texts)
    return next((key.fingerprint for key in trusted if key.verify(found.index, signature)), None)


def _describe(found: Bundle, size_bytes: int, signed_by: str | None) -> Json:
    from limpet.cli.bundle_evidence import count_signatures

    contents = found.contents
    return {
        "digest": found.digest,
        "size_bytes": size_bytes,
        "made_by": found.made_by,
        "has_signature": found.signature is not None,
        "signed_by": signed_by,
        "objects": [
            {
                "kind": resource.kind,
                "namespace": resource.namespace,
                "name": resource.name,
                "digest": entry.digest,
                "image_signatures": count_signatures(entry.evidence),
            }
            for resource, entry in zip(found.resources, found.objects, strict=True)
        ],
        "modules": [_blob(blob) | {"name": blob.title} for blob in contents.modules],
        "compiled": [_blob(blob) | _compiled(blob) for blob in contents.compiled],
        "wheels": [_blob(blob) | {"name": blob.title} for blob in contents.wheels],
    }


def _blob(blob: Blob) -> Json:
    return {"digest": blob.digest, "size_bytes": blob.size}


def _compiled(blob: Blob) -> Json:
    from limpet.bundle.layout import COMPILED_NAME

    name = blob.annotations[COMPILED_NAME]
    return {"module": f"sha256:{name[:64]}", "target": name[65:].removesuffix(".cwasm")}


def _write_description(told: Json) -> None:
    signature = "none"
    if told["has_signature"]:
        signer = told["signed_by"]
        signature = f"by key {signer}" if signer else "by a key that was not given (--key FILE)"
    write_fields(
        [
            ("Digest", told["digest"]),
            ("Size", format_size(told["size_bytes"])),
            ("Made by", f"limpet {told['made_by']}"),
            ("Signature", signature),
        ]
    )
    _write_list(
        "Objects",
        ("KIND", "NAMESPACE", "NAME", "MODULE", "SIGNATURES"),
        [
            [
                each["kind"],
                each["namespace"],
                each["name"],
                (each["digest"] or "-")[:_SHORT_DIGEST],
                "-" if each["image_signatures"] is None else str(each["image_signatures"]),
            ]
            for each in told["objects"]
        ],
    )
    for title, key in (("Modules", "modules"), ("Wheels", "wheels")):
        rows = [[e["name"], e["digest"][:_SHORT_DIGEST], _size(e)] for e in told[key]]
        _write_list(title, ("NAME", "DIGEST", "SIZE"), rows)
    rows = [[e["module"][:_SHORT_DIGEST], e["target"], _size(e)] for e in told["compiled"]]
    _write_list("Compiled code", ("MODULE", "FOR", "SIZE"), rows)


def _write_list(title: str, titles: Sequence[str], rows: Sequence[list[str]]) -> None:
    if rows:
        write_title(title)
        write_table([Column(each) for each in titles], [list(row) for row in rows], indent=2)


def _size(entry: Json) -> str:
    return format_size(entry["size_bytes"])


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
