"""EnvVar and EnvFromSource: variables as they are written. `$(NAME)` is expanded by the plan.

Values are never shown: people keep passwords in variables, whatever they are told.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from limpet.manifest.fields import exactly_one
from limpet.manifest.model import EnvFrom, EnvVar, KeyRef
from limpet.manifest.names import (
    check_annotation_key,
    check_config_key,
    check_qualified_name,
    check_subdomain,
    check_variable_name,
)
from limpet.manifest.problems import shown

if TYPE_CHECKING:
    from limpet.manifest.fields import Fields

_PLAIN_FIELDS = ("metadata.name", "metadata.namespace", "spec.nodeName")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_FIELD_REFUSALS = {
    "metadata.uid": "an app has no uid outside a cluster",
    "spec.serviceAccountName": "apps have no service account",
    "status.hostIP": "a device's address changes while the app runs",
    "status.hostIPs": "a device's addresses change while the app runs",
    "status.podIP": "an app has no address of its own",
    "status.podIPs": "an app has no addresses of its own",
}
_SOURCES = ("configMapKeyRef", "secretKeyRef", "fieldRef")
_SOURCE_REFUSALS = {
    "resourceFieldRef": "limits are not known to the app; write the value",
    "fileKeyRef": "variables from files are not read; use configMapKeyRef",
}


def parse_environment(container: Fields) -> tuple[EnvVar, ...]:
    """The variables of `env`, in their order; a name may be there once."""
    variables = []
    seen: set[str] = set()
    for fields in container.mappings("env"):
        name = fields.text("name", required=True, check=check_variable_name)
        if name and name in seen:
            fields.problem(f"{shown(name)} is there twice", "name")
        seen.add(name)
        variables.append(_parse_variable(fields, name))
        fields.close()
    return tuple(variables)


def parse_environment_sources(container: Fields) -> tuple[EnvFrom, ...]:
    """The objects of `envFrom`, in their order."""
    return tuple(_parse_source(fields) for fields in container.mappings("envFrom"))


def _parse_variable(fields: Fields, name: str) -> EnvVar:
    if "valueFrom" not in fields:
        fields.accept("valueFrom")
        return EnvVar(name=name, value=fields.text("value"))
    if fields.text("value"):
        fields.problem("must not be there beside value", "valueFrom")
    source = fields.mapping("valueFrom")
    present = [refused for refused in _SOURCE_REFUSALS if refused in source]
    chosen = None if present else exactly_one(source, _SOURCES)
    ref = _parse_key_ref(source, chosen) if chosen in {"configMapKeyRef", "secretKeyRef"} else None
    field_path = _parse_field_ref(source.mapping("fieldRef")) if chosen == "fieldRef" else None
    source.accept(*_SOURCES)
    source.close(_SOURCE_REFUSALS, is_empty_refused=True)
    return EnvVar(name=name, ref=ref, field_path=field_path)


def _parse_key_ref(source: Fields, chosen: str | None) -> KeyRef:
    fields = source.mapping(chosen or "")
    ref = KeyRef(
        kind="Secret" if chosen == "secretKeyRef" else "ConfigMap",
        name=fields.text("name", required=True, check=check_subdomain),
        key=fields.text("key", required=True, check=check_config_key),
        is_optional=fields.boolean("optional"),
    )
    fields.close()
    return ref


def _parse_field_ref(fields: Fields) -> str:
    fields.choice("apiVersion", ("v1",), default="v1")
    path = fields.text("fieldPath", required=True, check=_check_field_path)
    fields.close()
    return path


def _check_field_path(path: str) -> str | None:
    if path in _PLAIN_FIELDS:
        return None
    if path in _FIELD_REFUSALS:
        return f"{path}: {_FIELD_REFUSALS[path]}"
    match = _SUBSCRIPT.fullmatch(path)
    if match is None:
        known = ", ".join((*_PLAIN_FIELDS, "metadata.labels['x']", "metadata.annotations['x']"))
        return f"{shown(path)} is not one of {known}"
    check = check_qualified_name if match[1] == "labels" else check_annotation_key
    return check(match[2])


def _parse_source(fields: Fields) -> EnvFrom:
    prefix = fields.text("prefix", check=_check_prefix)
    chosen = exactly_one(fields, ("configMapRef", "secretRef")) or "configMapRef"
    inner = fields.mapping(chosen)
    source = EnvFrom(
        kind="Secret" if chosen == "secretRef" else "ConfigMap",
        name=inner.text("name", required=True, check=check_subdomain),
        prefix=prefix,
        is_optional=inner.boolean("optional"),
    )
    inner.close()
    fields.accept("configMapRef", "secretRef")
    fields.close()
    return source


def _check_prefix(text: str) -> str | None:
    return check_variable_name(text) if text else None
