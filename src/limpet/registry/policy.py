"""Whose signature an image needs: the setting `registry.policy`. Pure.

Rules are `PREFIX=accept`, `PREFIX=reject` or `PREFIX=/path/to/public-keys.pem`, separated by commas. The
longest prefix that holds whole parts of `registry/repository` counts; `*` is the rest, and without it the
rest is accepted. A prefix that could match nothing is refused: a rule that never counts looks like one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from limpet.errors import InvalidInputError
from limpet.registry.reference import DOCKER_HUB, is_registry, normalise_registry

_REGISTRY = re.compile(r"([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_PART = re.compile(r"[*:@?#%]")


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
    """Every rule, its prefix in the spelling of names."""

    rules: tuple[Rule, ...] = ()

    def decide(self, name: str) -> Rule:
        """The rule for what `limpet.registry.reference.name_place` makes of a source."""
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
        if value in (Verdict.ACCEPT, Verdict.REJECT):
            verdict, keys = Verdict(value), ""
        elif value.startswith("/"):
            verdict, keys = Verdict.VERIFY, value
        else:
            raise PolicyError(
                f"registry.policy: {prefix}={value}: write accept, reject or a key file's absolute path"
            )
        for name in _normalise_prefix(prefix):
            if name in rules:
                raise PolicyError(f"registry.policy: {name!r} is there twice")
            rules[name] = Rule(name, verdict, keys)
    return Policy(tuple(rules.values()))


def _normalise_prefix(prefix: str) -> tuple[str, ...]:
    """What a prefix means, in the spelling of names. Raises `PolicyError` for what is none.

    On Docker Hub one word is an image, which is in `library`, or whoever has images there.
    """
    if prefix == "*":
        return (prefix,)
    first, _, path = prefix.partition("/")
    parts = [part for part in path.split("/") if part]
    is_good = is_registry(first.lower()) and _REGISTRY.fullmatch(first.lower())
    if not is_good or any(_PART.search(part) for part in parts):
        raise PolicyError(
            f"registry.policy: {prefix!r} matches no image: write a registry, or one and whole parts of "
            "a repository, like docker.io, docker.io/nginx or ghcr.io/acme, without tag or `*`; "
            "alone, `*` is the rest"
        )
    host = normalise_registry(first)
    names = ["/".join((host, *parts))]
    if host == DOCKER_HUB and len(parts) == 1:
        names.append(f"{host}/library/{parts[0]}")
    return tuple(names)


def _is_below(prefix: str, name: str) -> bool:
    return prefix in ("*", name) or name.startswith(f"{prefix}/")
