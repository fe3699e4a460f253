"""Whose signature an image needs: the setting `registry.policy`. Pure.

Rules are `PREFIX=accept`, `PREFIX=reject` or `PREFIX=/path/to/public-keys.pem`, separated by commas. The
longest prefix that holds whole parts of `registry/repository` counts; `*` is the rest, and without it the
rest is accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from limpet.errors import InvalidInputError


class PolicyError(InvalidInputError):
    """A policy that can't be read."""

    reason = "InvalidPolicy"


class Verdict(StrEnum):
    """What a rule says."""

    ACCEPT = "accept"
    REJECT = "reject"
    VERIFY = "verify"


@dataclass(frozen=True, slots=True)
class Rule:
    """`keys` is the path of a PEM file where the verdict is VERIFY."""

    prefix: str
    verdict: Verdict
    keys: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """Every rule, as written."""

    rules: tuple[Rule, ...] = ()

    def decide(self, name: str) -> Rule:
        """The rule for `registry/repository`, or for `host/path` of a URL."""
        fitting = [rule for rule in self.rules if _is_below(rule.prefix, name)]
        if not fitting:
            return Rule("*", Verdict.ACCEPT)
        return max(fitting, key=lambda rule: -1 if rule.prefix == "*" else len(rule.prefix))


def parse_policy(text: str) -> Policy:
    """The setting's text as rules. Raises `PolicyError`."""
    rules: dict[str, Rule] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        prefix, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not prefix or not value:
            raise PolicyError(
                f"registry.policy: {item!r} is not like ghcr.io/acme=/etc/limpet/acme.pub, "
                "docker.io=reject or *=accept"
            )
        prefix = prefix.rstrip("/")
        if prefix in rules:
            raise PolicyError(f"registry.policy: {prefix!r} is there twice")
        if value in (Verdict.ACCEPT, Verdict.REJECT):
            rules[prefix] = Rule(prefix, Verdict(value))
        elif value.startswith("/"):
            rules[prefix] = Rule(prefix, Verdict.VERIFY, value)
        else:
            raise PolicyError(
                f"registry.policy: {prefix}={value}: write accept, reject or a key file's absolute path"
            )
    return Policy(tuple(rules.values()))


def _is_below(prefix: str, name: str) -> bool:
    return prefix in ("*", name) or name.startswith(f"{prefix}/")
