"""Every example's app.yaml is a manifest, and names the module that its build script makes."""

from __future__ import annotations

import pytest
from example_guests import EXAMPLES

from limpet.manifest import load_documents, parse_object
from limpet.manifest.model import App, ConfigMap

MANIFESTS = sorted(EXAMPLES.glob("*/app.yaml"))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.parent.name)
def test_manifest_is_accepted(path) -> None:
    documents = load_documents(path.read_bytes(), file=str(path))
    resources = [parse_object(item.object, locate=item.locate) for item in documents]
    (app,) = [resource for resource in resources if isinstance(resource, App)]
    assert (app.name, app.source.location) == (path.parent.name, f"./{path.parent.name}.wasm")
    configs = {resource.name for resource in resources if isinstance(resource, ConfigMap)}
    assert {mount.source for mount in app.mounts if mount.kind == "ConfigMap"} <= configs
    assert {source.name for source in app.env_from} <= configs


def test_examples_have_ports_of_their_own() -> None:
    """All of them run side by side on one device."""
    ports = []
    for path in MANIFESTS:
        for item in load_documents(path.read_bytes(), file=str(path)):
            resource = parse_object(item.object, locate=item.locate)
            if isinstance(resource, App):
                ports += [port.container_port for port in resource.ports]
    assert len(ports) == len(set(ports)) == 6
