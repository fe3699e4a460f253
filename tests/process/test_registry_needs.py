"""What was pulled stays for whoever names it, and goes with its last user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from guests import build_guest
from running_node import wait_for
from workloads import http_app

from oci_server import OciServer, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from running_node import RunningNode


@pytest.fixture
def registry() -> Iterator[OciServer]:
    with OciServer() as running:
        yield running


def app(registry: OciServer, name: str, version: str, **fields: Any) -> dict[str, Any]:
    return http_app(name, f"oci://{registry.host}/acme/app:{version}", **fields)


def test_what_a_paused_app_names_stays_for_it(
    make_node: Callable[..., RunningNode], registry: OciServer
) -> None:
    echo, other = build_guest("echo").read_bytes(), build_guest("echo").read_bytes() + b"\0\2\1x"
    registry.add_module("acme/app", "1", echo)
    registry.add_module("acme/app", "2", other)
    registry.add_module("acme/app", "3", other + b"\0\2\1y")
    # Nothing that is of no use outlives the first look after a start.
    node = make_node(LIMPET_DISK_UNUSED_HOURS="1e-9", LIMPET_DISK_GRACE_MINUTES="0.9375")
    node.start()
    paused = app(registry, "paused", "1")
    node.apply(paused, app(registry, "second", "2"), app(registry, "third", "3"))
    for name in ("paused", "second", "third"):
        node.wait_ready(name)
    wait_for(lambda: node.events("paused", "ReleaseComplete"), "the first release")
    rollout = {"namespace": "default", "name": "paused"}
    node.client.change_rollout(**rollout, action="pause")
    node.apply(app(registry, "paused", "2"))
    for name in ("second", "third"):
        node.delete("Deployment", name)
    wait_for(lambda: node.is_gone("second") and node.is_gone("third"), "their end")
    registry.behaviour.status = 503
    node.restart()
    third = digest_of(other + b"\0\2\1y")
    wait_for(lambda: not node.client.has_module(third), "the end of what nobody names")
    assert node.client.has_module(digest_of(echo))
    assert node.client.has_module(digest_of(other)), "the paused release names it"
    node.client.change_rollout(**rollout, action="resume")
    wait_for(lambda: node.status("paused")["digest"] == digest_of(other), "the second release")
    node.wait_ready("paused")
    node.apply(app(registry, "never", "3", imagePullPolicy="Never"))
    node.wait_reason("never", "ErrImageNeverPull")
    node.stop()
