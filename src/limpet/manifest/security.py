"""SecurityContext: what every app gets anyway may be asked for, and capabilities; nothing else.

Clusters that enforce the restricted Pod Security Standard demand these fields, so a manifest has
to be able to carry them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.manifest.requirements import parse_capabilities

if TYPE_CHECKING:
    from limpet.manifest.fields import Fields

_OWN_USER = "every app already runs as a user of its own, which the device picks"
_NO_LSM = "the device picks the confinement of apps"
_REFUSALS = {
    "appArmorProfile": _NO_LSM,
    "fsGroup": _OWN_USER,
    "fsGroupChangePolicy": _OWN_USER,
    "procMount": "a module sees no /proc",
    "runAsGroup": _OWN_USER,
    "runAsUser": _OWN_USER,
    "seLinuxChangePolicy": _NO_LSM,
    "seLinuxOptions": _NO_LSM,
    "supplementalGroups": _OWN_USER,
    "supplementalGroupsPolicy": _OWN_USER,
    "sysctls": "an app has no kernel settings of its own",
    "windowsOptions": "devices run Linux",
}


def parse_container_security(fields: Fields) -> tuple[str, ...]:
    """A container's securityContext: the capabilities that it adds, if the operator lets it."""
    _expect(fields, "privileged", expected=False, why="an app never leaves its sandbox")
    _expect(fields, "allowPrivilegeEscalation", expected=False, why="an app never gains rights")
    _expect(fields, "readOnlyRootFilesystem", expected=True, why="an app has no root file system")
    capabilities = parse_capabilities(fields.mapping("capabilities"))
    parse_pod_security(fields)
    return capabilities


def parse_pod_security(fields: Fields) -> None:
    """A pod's securityContext, and what a container's has in common with it."""
    _expect(fields, "runAsNonRoot", expected=True, why="an app never runs as root")
    profile = fields.mapping("seccompProfile")
    if profile.text("type", default="RuntimeDefault") != "RuntimeDefault":
        profile.problem("only RuntimeDefault: the device's own filter always holds", "type")
    profile.close({"localhostProfile": "the device's own filter always holds"})
    fields.close(_REFUSALS)


def _expect(fields: Fields, name: str, *, expected: bool, why: str) -> None:
    if fields.boolean(name, default=expected) is not expected:
        fields.problem(f"must be {str(expected).lower()}: {why}", name)
