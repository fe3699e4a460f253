"""Kubernetes' rules for names, labels and keys, as checks that say why a text is refused.

Sources: apimachinery's validation package and "Object Names and IDs" of Kubernetes v1.34.
Lengths are checked before patterns: hostile texts never meet a regular expression.
"""

from __future__ import annotations

import re

from limpet.manifest.problems import shown

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
_SERVICE = re.compile(r"[a-z](?:[-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_VARIABLE = re.compile(r"[ -<>-~]+")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

_LABEL_RULE = "lower-case letters, digits and dashes, at most 63, no dash at either end"


def check_label(text: str) -> str | None:
    """RFC 1123 label: namespaces, containers, volumes, ports of Services."""
    if len(text) <= 63 and _LABEL.fullmatch(text):
        return None
    return f"{shown(text)} is not a valid name: {_LABEL_RULE}"


def check_service_name(text: str) -> str | None:
    """RFC 1035 label: Services."""
    if len(text) <= 63 and _SERVICE.fullmatch(text):
        return None
    return f"{shown(text)} is not a valid name: {_LABEL_RULE}, and a letter first"


def is_subdomain(text: str) -> bool:
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


def check_subdomain(text: str) -> str | None:
    """RFC 1123 subdomain: most objects."""
    if is_subdomain(text):
        return None
    return (
        f"{shown(text)} is not a valid name: lower-case letters, digits, dashes and dots, "
        "at most 253, a letter or digit at both ends of every part"
    )


def check_qualified_name(text: str) -> str | None:
    """Keys of labels: `name` or `prefix.example/name`."""
    prefix, slash, name = text.rpartition("/")
    is_good_prefix = not slash or is_subdomain(prefix)
    if is_good_prefix and len(name) <= 63 and _QUALIFIED.fullmatch(name):
        return None
    return (
        f"{shown(text)} is not a valid key: an optional lower-case domain and a slash, then "
        "letters, digits, '-', '_' and '.', at most 63, a letter or digit at both ends"
    )


def check_annotation_key(text: str) -> str | None:
    """Keys of annotations: as of labels, but the prefix may have upper case."""
    return None if check_qualified_name(text.lower()) is None else check_qualified_name(text)


def check_label_value(text: str) -> str | None:
    if not text or (len(text) <= 63 and _QUALIFIED.fullmatch(text)):
        return None
    return (
        f"{shown(text)} is not a valid label value: letters, digits, '-', '_' and '.', "
        "at most 63, a letter or digit at both ends"
    )


def check_port_name(text: str) -> str | None:
    """IANA service name (RFC 6335): names of container ports."""
    is_good = len(text) <= 15 and _PORT_NAME.fullmatch(text) and not text.isdigit()
    if is_good and "--" not in text and any(c.isalpha() for c in text):
        return None
    return (
        f"{shown(text)} is not a valid port name: lower-case letters, digits and single dashes, "
        "at most 15, at least one letter, no dash at either end"
    )


def check_config_key(text: str) -> str | None:
    """Keys of ConfigMaps and Secrets, which become file names."""
    is_safe = text not in {".", ".."} and not text.startswith("..")
    if is_safe and len(text) <= 253 and _CONFIG_KEY.fullmatch(text):
        return None
    return f"{shown(text)} is not a valid key: letters, digits, '-', '_' and '.', at most 253"


def check_variable_name(text: str) -> str | None:
    """Names of environment variables, as v1.34 relaxed them."""
    if len(text) <= 1024 and _VARIABLE.fullmatch(text):
        return None
    return f"{shown(text)} is not a valid variable name: printable ASCII without '='"


def is_token(text: str) -> bool:
    """RFC 9110 token: methods and header names."""
    return len(text) <= 128 and _TOKEN.fullmatch(text) is not None


def check_url_path(text: str) -> str | None:
    """An absolute path that means itself: no dot segments, no empty ones, nothing encoded twice."""
    if not text.startswith("/"):
        return f"{shown(text)} must start with /"
    if len(text) > 1024:
        return "is longer than 1024 characters"
    if any(c <= " " or c in '?#\\"<>' or not c.isprintable() for c in text):
        return f"{shown(text)} must not contain spaces, '?', '#', quotes or backslashes"
    parts = text.lower().split("/")
    if "." in parts or ".." in parts or "" in parts[1:-1] or "%2f" in text.lower():
        return f"{shown(text)} must not contain //, /./, /../ or %2f"
    return None
