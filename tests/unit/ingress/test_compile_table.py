"""What the agent tells the router: Services resolved to the addresses that apps listen on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from limpet.manifest.model import (
    App,
    ContainerPort,
    Exposure,
    HttpOptions,
    Ingress,
    IngressPath,
    ModuleSource,
    Service,
    ServicePort,
    Trigger,
)
from limpet.node.router import compile_table
from limpet.plan import Catalog


def app(name: str = "one", *, namespace: str = "default", **more: Any) -> App:
    fields: dict[str, Any] = {
        "kind": "Deployment",
        "namespace": namespace,
        "name": name,
        "source": ModuleSource(scheme="file", location="./a.wasm"),
        "trigger": Trigger.HTTP,
        "pod_labels": {"app": name, "tier": "web"},
        "ports": (ContainerPort(container_port=8080, name="http"),),
    }
    return App(**{**fields, **more})


def service(name: str = "one", **more: Any) -> Service:
    fields: dict[str, Any] = {
        "namespace": "default",
        "name": name,
        "selector": {"app": "one"},
        "ports": (ServicePort(port=80, target_port="http", name="web"),),
    }
    return Service(**{**fields, **more})


def path(to: str = "one", *, host: str = "", path: str = "/", **more: Any) -> IngressPath:
    return IngressPath(host=host, path=path, service=to, **{"is_exact": False, "port": 80, **more})


def compile_entries(
    *paths: IngressPath, services: tuple[Service, ...] = (), apps: tuple[App, ...] = ()
) -> list[list[object]]:
    ingress = Ingress(namespace="default", name="main", paths=paths)
    entries = json.loads(compile_table([ingress], Catalog([*services, ingress]), apps))
    assert isinstance(entries, list)
    return entries


def target(*, port: int | str = 80, service: Service, apps: tuple[App, ...]) -> object:
    (entry,) = compile_entries(path(port=port), services=(service,), apps=apps)
    return entry[3]


def test_the_most_specific_comes_first() -> None:
    entries = compile_entries(
        path(),
        path(host="*.b"),
        path(host="a.b"),
        path(host="a.b", path="/longer"),
        path(host="a.b", path="/x", is_exact=True),
    )
    assert [entry[:3] for entry in entries] == [
        ["a.b", "/x", True],
        ["a.b", "/longer", False],
        ["a.b", "/", False],
        ["*.b", "/", False],
        ["", "/", False],
    ]


@pytest.mark.parametrize("port", [80, "web"])
@pytest.mark.parametrize("exposure", list(Exposure))
def test_a_service_is_reached_on_loopback(port: int | str, exposure: Exposure) -> None:
    assert target(port=port, service=service(exposure=exposure), apps=(app(),)) == "127.0.0.1:80"


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:9000", "127.0.0.1:9000"),
        ("0.0.0.0:9000", "127.0.0.1:9000"),
        ("[::]:9000", "[::1]:9000"),
        ("10.1.2.3:9000", "10.1.2.3:9000"),
    ],
)
def test_an_app_with_an_address_of_its_own(listen: str, address: str) -> None:
    apps = (app(http=HttpOptions(listen=listen)),)
    assert target(service=service(), apps=apps) == address


@pytest.mark.parametrize(
    "apps",
    [
        (),
        (app("other"),),
        (app(namespace="elsewhere"),),
        (app(trigger=Trigger.COMMAND),),
        (app(ports=(ContainerPort(container_port=8080, name="admin"),)),),
    ],
)
def test_a_service_without_an_app_has_no_target(apps: tuple[App, ...]) -> None:
    assert target(service=service(), apps=apps) == ""


def test_a_service_or_port_that_does_not_exist_has_no_target() -> None:
    entries = compile_entries(path(), path("two"), services=(service("two"),), apps=(app(),))
    assert [entry[3] for entry in entries] == ["", "127.0.0.1:80"]
    assert target(port=81, service=service(), apps=(app(),)) == ""


def test_patience_is_the_apps_deadline_and_a_start() -> None:
    entries = compile_entries(
        path(path="/quick"),
        path("slow"),
        services=(
            service(),
            service(
                "slow", selector={"app": "slow"}, ports=(ServicePort(port=80, target_port=8080),)
            ),
        ),
        apps=(app(deadline_seconds=1.0), app("slow", deadline_seconds=300.0)),
    )
    assert [entry[4] for entry in entries] == [60.0, 310.0]
