"""The proxy that the environment names, as curl reads it: `[http://][user:password@]host[:port]`. Pure.

No message of this module shows what is there: a password may be part of it.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from limpet.registry.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """Where to ask for a connection (RFC 9110, section 9.3.6: CONNECT), and with which headers."""

    host: str
    port: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def environment_proxy(environment: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """The proxy for https that the environment names, and the hosts that it is not for."""
    proxy = environment.get("https_proxy") or environment.get("HTTPS_PROXY") or ""
    excepted = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    return proxy, tuple(name.strip().lstrip(".") for name in excepted.split(",") if name.strip())


def is_excepted(host: str, names: tuple[str, ...]) -> bool:
    """Whether the proxy is not for this host."""
    return any(name == "*" or host == name or host.endswith(f".{name}") for name in names)


def parse_proxy(text: str) -> Proxy:
    """What a variable says. Raises `FetchError` for what can't be used."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port = None, 0
    if not host or parts.scheme != "http":
        raise FetchError(
            "HTTPS_PROXY can't be used: it is not like http://proxy.example:3128 (TLS to the proxy "
            "itself and SOCKS are not spoken)"
        )
    headers = {}
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    return Proxy(host=host, port=port, headers=headers)
