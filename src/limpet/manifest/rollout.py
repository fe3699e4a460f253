"""How a Deployment says that its changes are to be rolled out (apps/v1, DeploymentSpec)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.manifest.model import RolloutOptions
from limpet.manifest.problems import shown

if TYPE_CHECKING:
    from limpet.manifest.fields import Fields

_DEFAULTS = RolloutOptions()
_MOST_PERCENT = 100


def parse_rollout(spec: Fields) -> RolloutOptions:
    """The rollout's fields of a Deployment's `spec`; the defaults are Kubernetes'."""
    min_ready = spec.integer("minReadySeconds")
    deadline = spec.integer(
        "progressDeadlineSeconds", default=_DEFAULTS.progress_deadline_seconds, minimum=1
    )
    if deadline <= min_ready:
        spec.problem("must be more than minReadySeconds", "progressDeadlineSeconds")
    strategy = spec.mapping("strategy")
    kind = strategy.choice("type", ("RollingUpdate", "Recreate"), default="RollingUpdate")
    rolling = strategy.mapping("rollingUpdate")
    surge = _read_share(rolling, "maxSurge", _DEFAULTS.max_surge)
    unavailable = _read_share(rolling, "maxUnavailable", _DEFAULTS.max_unavailable)
    if _percent(unavailable) > _MOST_PERCENT:
        rolling.problem("must not be more than 100%", "maxUnavailable")
    if _is_zero(surge) and _is_zero(unavailable):
        rolling.problem("must not be 0 when maxSurge is 0: nothing could move", "maxUnavailable")
    rolling.close()
    if kind == "Recreate" and len(rolling):
        strategy.problem("must not be there with type Recreate", "rollingUpdate")
    strategy.close()
    return RolloutOptions(
        min_ready_seconds=min_ready,
        progress_deadline_seconds=deadline,
        history_limit=spec.integer("revisionHistoryLimit", default=_DEFAULTS.history_limit),
        max_surge=surge,
        max_unavailable=unavailable,
        is_recreated=kind == "Recreate",
        is_paused=spec.boolean("paused"),
    )


def _read_share(fields: Fields, name: str, default: int | str) -> int | str:
    """A number, or text like `25%` (IntOrString)."""
    value = fields.raw(name)
    if value is None:
        return default
    if not isinstance(value, str):
        return fields.integer(name)
    digits = value.removesuffix("%")
    if digits == value or not (digits.isascii() and digits.isdigit() and len(digits) <= 4):
        fields.problem(f"must be a whole number or like 25%, not {shown(value)}", name)
        return default
    return f"{int(digits)}%"


def _percent(share: int | str) -> int:
    return int(share[:-1]) if isinstance(share, str) else 0


def _is_zero(share: int | str) -> bool:
    return share in (0, "0%")
