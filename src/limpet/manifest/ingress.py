"""Ingress: which host and path lead to which Service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.manifest.annotations import check_annotation_names
from limpet.manifest.fields import exactly_one
from limpet.manifest.metadata import parse_metadata
from limpet.manifest.model import Ingress, IngressPath
from limpet.manifest.names import (
    check_port_name,
    check_service_name,
    check_url_path,
    is_subdomain,
)
from limpet.manifest.problems import shown

if TYPE_CHECKING:
    from limpet.manifest.fields import Fields

INGRESS_CLASS = "limpet"
_PATH_TYPES = ("Prefix", "Exact", "ImplementationSpecific")
_REFUSALS = {"tls": "TLS at the ingress is not built yet"}


def parse_ingress(root: Fields) -> Ingress:
    """An Ingress; its paths keep the document's order, the default backend comes last."""
    metadata = parse_metadata(root.mapping("metadata", required=True))
    check_annotation_names(root.report, "Ingress", metadata)
    spec = root.mapping("spec", required=True)
    class_name = spec.text("ingressClassName")
    if class_name and class_name != INGRESS_CLASS:
        spec.problem(f"{shown(class_name)} is not served here; write limpet", "ingressClassName")
    paths: list[IngressPath] = []
    seen: set[tuple[str, str, bool]] = set()
    for rule in spec.mappings("rules"):
        paths += _parse_rule(rule, seen)
    if "defaultBackend" in spec:
        service, port = _parse_backend(spec.mapping("defaultBackend"))
        paths.append(IngressPath(host="", path="/", is_exact=False, service=service, port=port))
    elif spec.is_present and not spec.get("rules"):
        spec.problem("has neither rules nor a defaultBackend")
    spec.accept("defaultBackend")
    spec.close(_REFUSALS)
    return Ingress(
        namespace=metadata.namespace,
        name=metadata.name,
        paths=tuple(paths),
        labels=metadata.labels,
        annotations=metadata.annotations,
    )


def _parse_rule(rule: Fields, seen: set[tuple[str, str, bool]]) -> list[IngressPath]:
    host = rule.text("host", check=_check_host)
    http = rule.mapping("http", required=True)
    items = http.mappings("paths", required=True)
    if not items and isinstance(http.get("paths"), list):
        http.problem("must have at least one path", "paths")
    paths = []
    for fields in items:
        path = _parse_path(fields, host)
        key = (path.host, path.path, path.is_exact)
        if path.path and key in seen:
            fields.problem(f"{shown(path.path)} is there twice for this host", "path")
        seen.add(key)
        paths.append(path)
    http.close()
    rule.close()
    return paths


def _parse_path(fields: Fields, host: str) -> IngressPath:
    path_type = fields.choice("pathType", _PATH_TYPES, required=True)
    is_specific = path_type == "ImplementationSpecific"
    path = fields.text("path", required=not is_specific, check=_check_path)
    service, port = _parse_backend(fields.mapping("backend", required=True))
    fields.close()
    return IngressPath(
        host=host,
        path=path or ("/" if is_specific else ""),
        is_exact=path_type == "Exact",
        service=service,
        port=port,
    )


def _parse_backend(fields: Fields) -> tuple[str, int | str]:
    service = fields.mapping("service", required="resource" not in fields)
    name = service.text("name", required=True, check=check_service_name)
    port = service.mapping("port", required=True)
    chosen = exactly_one(port, ("number", "name"))
    number = port.integer("number", minimum=1, maximum=65_535)
    port_name = port.text("name", check=_check_optional_port_name)
    port.close()
    service.close()
    fields.close({"resource": "requests go to Services only"}, is_empty_refused=True)
    return name, number if chosen == "number" else port_name


def _check_optional_port_name(text: str) -> str | None:
    return check_port_name(text) if text else None


def _check_host(text: str) -> str | None:
    """A host name, or `*.` and a host name; addresses are not hosts."""
    name = text.removeprefix("*.")
    is_address = name.replace(".", "").isdigit()
    if not text or (is_subdomain(name) and not is_address):
        return None
    return f"{shown(text)} is not a host name like app.example or *.example, in lower case"


def _check_path(text: str) -> str | None:
    return check_url_path(text) if text else None
