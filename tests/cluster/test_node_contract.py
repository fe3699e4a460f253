"""What a real API server lets a node do: the contract that Limpet's node is written to.

Each line of it was once an assumption. When another release of Kubernetes changes one, it is noticed here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from cluster_program import kubernetes_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane import ControlPlane, Json

PODS = "/api/v1/namespaces/default/pods"


def node(name: str, **labels: str) -> Json:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


def pod(name: str, node_name: str, **spec: object) -> Json:
    containers = [{"name": "main", "image": "registry.example/app:1"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"nodeName": node_name, "containers": containers, **spec},
    }


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def user(control_plane: ControlPlane) -> str:
    """The kubelet of node n1, which it has registered."""
    user = control_plane.add_node_user("n1")
    status, _ = control_plane.call(user, "POST", "/api/v1/nodes", node("n1"))
    assert status == 201
    return user


def test_it_is_the_release_that_was_asked_for(control_plane: ControlPlane) -> None:
    assert f"Server Version: v{kubernetes_version()}" in control_plane.kubectl("version")


@pytest.mark.parametrize(
    ("label", "status"),
    [
        ("kubernetes.io/arch", 201),
        ("limpet.dev/engine-wasmtime", 201),
        ("a.node.kubernetes.io/b", 201),
        ("node-role.kubernetes.io/edge", 403),
        ("kubernetes.io/role", 403),
    ],
)
def test_labels_that_a_node_may_give_itself(
    control_plane: ControlPlane, label: str, status: int
) -> None:
    user = control_plane.add_node_user("labelled")
    answer, _ = control_plane.call(user, "POST", "/api/v1/nodes", node("labelled", **{label: "x"}))
    assert answer == status
    control_plane.call("admin", "DELETE", "/api/v1/nodes/labelled")


def test_a_node_can_not_be_another_one(control_plane: ControlPlane, user: str) -> None:
    assert control_plane.call(user, "POST", "/api/v1/nodes", node("n2"))[0] == 403
    assert control_plane.call(user, "GET", "/api/v1/nodes/n1")[0] == 200
    assert control_plane.call(user, "GET", "/api/v1/nodes")[0] == 403


def test_a_node_sees_its_own_pods_and_what_they_refer_to(
    control_plane: ControlPlane, user: str
) -> None:
    volume = {"name": "c", "configMap": {"name": "used", "optional": True}}
    for name in ("used", "unused"):
        body = {"metadata": {"name": name}, "data": {"a": "b"}}
        control_plane.call("admin", "POST", "/api/v1/namespaces/default/configmaps", body)
    made = pod("sees", "n1", volumes=[volume])
    assert control_plane.call("admin", "POST", PODS, made)[0] == 201
    status, listed = control_plane.call(
        user, "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1"
    )
    assert (status, [item["metadata"]["name"] for item in listed["items"]]) == (200, ["sees"])
    assert control_plane.call(user, "GET", "/api/v1/pods")[0] == 403
    maps = "/api/v1/namespaces/default/configmaps"
    until(lambda: control_plane.call(user, "GET", f"{maps}/used")[0] == 200, "the map")
    assert control_plane.call(user, "GET", f"{maps}/unused")[0] == 403
    assert control_plane.call(user, "GET", maps)[0] == 403
    one = f"{maps}?fieldSelector=metadata.name%3Dused"
    assert control_plane.call(user, "GET", one)[0] == 200


def test_a_node_tells_a_pods_status_and_deletes_the_one_that_it_means(
    control_plane: ControlPlane, user: str
) -> None:
    status, made = control_plane.call("admin", "POST", PODS, pod("told", "n1"))
    assert status == 201
    phase = {"status": {"phase": "Running", "podIP": "10.42.0.7"}}
    status, told = control_plane.call(user, "PATCH", f"{PODS}/told/status", phase)
    assert (status, told["status"]["phase"]) == (200, "Running")

    def delete(uid: str) -> int:
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        return control_plane.call(user, "DELETE", f"{PODS}/told", body)[0]

    assert delete("00000000-0000-0000-0000-000000000000") == 409
    assert delete(made["metadata"]["uid"]) == 200
    assert control_plane.call(user, "GET", f"{PODS}/told")[0] in (403, 404)


def test_a_node_gets_tokens_for_its_pods_only(control_plane: ControlPlane, user: str) -> None:
    status, made = control_plane.call("admin", "POST", PODS, pod("asks", "n1"))
    assert status == 201
    path = "/api/v1/namespaces/default/serviceaccounts/default/token"

    def ask(uid: str) -> int:
        reference = {"kind": "Pod", "apiVersion": "v1", "name": "asks", "uid": uid}
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"boundObjectRef": reference, "expirationSeconds": 600},
        }
        return control_plane.call(user, "POST", path, body)[0]

    until(lambda: ask(made["metadata"]["uid"]) == 201, "the token")
    assert ask("00000000-0000-0000-0000-000000000000") in (403, 409)
