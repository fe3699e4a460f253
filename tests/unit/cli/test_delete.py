from __future__ import annotations

import json

import pytest

from .fake_node import make_app, make_job, make_object

MANIFEST = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: readings}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: hello}, ports: [{port: 80}]}
"""


@pytest.fixture
def world(node):
    node.add(make_app(), make_job())
    node.store(
        make_object("Deployment", "hello", {}),
        make_object("Job", "report", {}),
        make_object("Service", "web", {}),
        make_object("PersistentVolumeClaim", "readings", {}),
    )
    return node


def test_a_name_alone_is_an_app(world, limpet_):
    result = limpet_("delete", "hello", "report")
    assert result.stdout == "deployment/hello deleted\njob/report deleted\n"
    assert world.apps == {}


def test_kinds(world, limpet_):
    result = limpet_("delete", "svc/web", "pvc/readings", "--wait")
    assert result.stdout == "service/web deleted\npersistentvolumeclaim/readings deleted\n"
    assert limpet_("delete", "deploy", "hello", "-o", "name").stdout == "deployment/hello\n"


def test_manifests_are_deleted_backwards(world, limpet_):
    result = limpet_("delete", "-f", "-", input=MANIFEST)
    assert result.stdout == "service/web deleted\npersistentvolumeclaim/readings deleted\n"


def test_what_is_there_goes_even_if_something_is_missing(world, limpet_):
    result = limpet_("delete", "nope", "hello")
    assert result.exit_code == 3
    assert result.stdout == "deployment/hello deleted\n"
    assert "app default/nope does not exist" in result.stderr


def test_ignore_not_found(world, limpet_):
    result = limpet_("delete", "nope", "svc/nope", "--ignore-not-found")
    assert (result.exit_code, result.output) == (0, "")


def test_dry_run_deletes_nothing(world, limpet_):
    result = limpet_("delete", "hello", "--dry-run")
    assert result.stdout == "deployment/hello deleted (dry run)\n"
    assert world.asked("DELETE") == []
    assert limpet_("delete", "svc/nope", "--dry-run").exit_code == 3


def test_json(world, limpet_):
    answer = json.loads(limpet_("delete", "hello", "-o", "json").stdout)
    assert answer == {
        "items": [
            {"kind": "Deployment", "namespace": "default", "name": "hello", "action": "deleted"}
        ]
    }


def test_wait_times_out(world, limpet_, monkeypatch):
    monkeypatch.setattr("limpet.api.client.Client.delete_object", lambda self, **target: [])
    result = limpet_("delete", "hello", "--wait", "--timeout", "50ms")
    assert result.exit_code == 7
    assert "hello: still stopping after 0.05 s" in result.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [([], "name what to delete"), (["node/rock"], "a node can't be deleted")],
)
def test_errors(world, limpet_, words, text):
    result = limpet_("delete", *words)
    assert result.exit_code == 2
    assert text in result.stderr
