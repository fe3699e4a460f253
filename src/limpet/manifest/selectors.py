"""LabelSelector: a Deployment's must match its own template, and that is all it is for here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.manifest.metadata import parse_labels
from limpet.manifest.names import check_label_value, check_qualified_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limpet.manifest.fields import Fields

_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


def check_selector(spec: Fields, labels: Mapping[str, str]) -> None:
    """Report unless the spec's required selector matches the template's `labels`."""
    if "selector" not in spec:
        spec.mapping("selector", required=True)
        return
    selector = spec.mapping("selector")
    for key, value in parse_labels(selector, "matchLabels").items():
        if labels.get(key) != value:
            selector.problem(
                f"does not match the template, whose labels have {_found(labels, key)}",
                "matchLabels",
                key,
            )
    expressions = selector.mappings("matchExpressions")
    for expression in expressions:
        _check_expression(expression, labels)
    if not expressions and not selector.mapping("matchLabels"):
        selector.problem("is empty; write the template's labels under matchLabels")
    selector.close()


def _check_expression(fields: Fields, labels: Mapping[str, str]) -> None:
    key = fields.text("key", required=True, check=check_qualified_name)
    operator = fields.choice("operator", _OPERATORS, required=True)
    values = fields.texts("values")
    fields.close()
    for index, value in enumerate(values):
        why = check_label_value(value)
        if why is not None:
            fields.problem(why, "values", index)
    takes_values = operator in {"In", "NotIn"}
    if operator and takes_values != bool(values):
        needs = "needs" if takes_values else "takes no"
        fields.problem(f"{operator} {needs} values", "values")
    elif key and operator and not _is_match(operator, values, labels.get(key)):
        fields.problem(f"does not match the template, whose labels have {_found(labels, key)}")


def _found(labels: Mapping[str, str], key: str) -> str:
    return f"{key}={labels[key]}" if key in labels else f"no {key}"


def _is_match(operator: str, values: tuple[str, ...], value: str | None) -> bool:
    if operator == "In":
        return value in values
    if operator == "NotIn":
        return value not in values
    return (value is not None) == (operator == "Exists")
