"""LabelSelector: a Deployment's must match its own template, a NetworkPolicy's picks apps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.manifest.metadata import parse_labels
from limpet.manifest.model import LabelExpression, LabelSelector
from limpet.manifest.names import check_label_value, check_qualified_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limpet.manifest.fields import Fields

_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


def parse_selector(selector: Fields) -> LabelSelector:
    """A selector as it stands; an empty one matches everything."""
    labels = parse_labels(selector, "matchLabels")
    found = [_parse_expression(fields) for fields in selector.mappings("matchExpressions")]
    selector.close()
    return LabelSelector(
        match_labels=labels,
        match_expressions=tuple(expression for expression in found if expression is not None),
    )


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
    for fields in expressions:
        expression = _parse_expression(fields)
        if expression is not None and not expression.matches(labels):
            found = _found(labels, expression.key)
            fields.problem(f"does not match the template, whose labels have {found}")
    if not expressions and not selector.mapping("matchLabels"):
        selector.problem("is empty; write the template's labels under matchLabels")
    selector.close()


def _parse_expression(fields: Fields) -> LabelExpression | None:
    """One of matchExpressions; None after a problem that leaves nothing to match with."""
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
        return None
    if not key or not operator:
        return None
    return LabelExpression(key=key, operator=operator, values=values)


def _found(labels: Mapping[str, str], key: str) -> str:
    return f"{key}={labels[key]}" if key in labels else f"no {key}"
