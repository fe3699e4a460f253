import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import limpet
from limpet.errors import InvalidInputError
from limpet.manifest import ManifestError, Problem, parse_object
from limpet.manifest.model import App, Trigger
from limpet.manifest.volumes import normalise_mount_path

ANNOTATIONS = {
    "limpet.dev/queue": "9",
    "limpet.dev/egress": "a.example:443, 10.0.0.0/8:53/udp",
    "limpet.dev/require": "cgroup",
    "limpet.dev/pids": "9",
}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "a", "labels": {"app": "a"}, "annotations": ANNOTATIONS},
    "spec": {
        "containers": [
            {
                "name": "a",
                "image": "a.wasm",
                "args": ["x"],
                "ports": [{"containerPort": 80, "name": "web"}],
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                "envFrom": [{"configMapRef": {"name": "c"}}],
                "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
                "readinessProbe": {"httpGet": {"port": "web"}},
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            }
        ],
        "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "16Mi", "medium": "Memory"}}],
    },
}
TEMPLATE = {"metadata": {"labels": {"app": "a"}}, "spec": POD["spec"]}
SEEDS = [
    POD,
    {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "a"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "a"}},
            "strategy": {"type": "Recreate"},
            "template": TEMPLATE,
        },
    },
    {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "a"},
        "spec": {
            "backoffLimit": 1,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "a", "image": "a.wasm"}],
                }
            },
        },
    },
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "a"},
        "spec": {"selector": {"app": "a"}, "ports": [{"port": 80, "targetPort": "web"}]},
    },
    {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "a"},
        "spec": {
            "rules": [
                {
                    "host": "a.example",
                    "http": {
                        "paths": [
                            {
                                "path": "/",
                                "pathType": "Prefix",
                                "backend": {"service": {"name": "a", "port": {"number": 80}}},
                            }
                        ]
                    },
                }
            ]
        },
    },
    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "b"}},
    {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": {"a": "Yg=="}},
    {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "a"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "16Mi"}},
        },
    },
    {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "a"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "a"}},
            "policyTypes": ["Egress"],
            "egress": [
                {
                    "to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
                    "ports": [{"protocol": "TCP", "port": 80, "endPort": 90}],
                }
            ],
        },
    },
]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["", "a", "\ud800", "\0", "64Mi", "1e9999", "/a", "a.wasm", "Always", "80"])
)
WORDS = st.sampled_from(
    [
        *("apiVersion", "kind", "metadata", "name", "spec", "template", "containers", "image"),
        *("env", "valueFrom", "volumes", "ports", "emptyDir", "configMap", "items", "key", "path"),
        *("resources", "limits", "cpu", "memory", "status", "data", "rules", "http"),
    ]
)
KEYS = WORDS | st.text(max_size=8)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)


def places_of(seed):
    return [path for path in _walk(seed, ()) if path]


def _walk(value, path):
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, (*path, index))


@st.composite
def mutated_objects(draw):
    seed = copy.deepcopy(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 3))):
        *parents, last = draw(st.sampled_from(places_of(seed)))
        holder = seed
        for step in parents:
            holder = holder[step]
        if draw(st.booleans()) and isinstance(holder, dict):
            holder[draw(KEYS)] = draw(JSON)
        elif draw(st.booleans()):
            del holder[last]
        else:
            holder[last] = draw(JSON)
    return seed


def outcome(obj):
    try:
        return parse_object(obj), ()
    except ManifestError as error:
        return None, error.problems


def check_app(app: App) -> None:
    assert app.name
    assert app.namespace
    assert app.source.scheme in {"file", "https", "oci"}
    assert app.source.location
    assert 0.05 <= app.cpu_cores <= 64
    assert 1 << 20 <= app.memory_bytes <= 4 << 30
    assert 1 <= app.workers <= 64
    assert 0 <= app.replicas <= 1000
    assert app.grace_seconds >= 0
    assert app.deadline_seconds is None or app.deadline_seconds > 0
    assert app.trigger is Trigger.COMMAND or app.deadline_seconds is not None
    assert app.kind != "Job" or app.trigger is Trigger.COMMAND
    assert app.kind != "Deployment" or app.restart_policy == "Always"
    assert app.http.path.startswith("/")
    for variable in app.env:
        given_by = (variable.value, variable.ref, variable.field_path)
        assert sum(part is not None for part in given_by) == 1
        assert variable.name
    paths = [mount.path for mount in app.mounts]
    assert len(set(paths)) == len(paths)
    for mount in app.mounts:
        assert mount.path == normalise_mount_path(mount.path)
        assert mount.kind
        assert mount.source
        assert mount.kind not in {"ConfigMap", "Secret"} or mount.is_read_only
    for probe in filter(None, (app.readiness, app.liveness, app.startup)):
        assert probe.port
        names = {port.name for port in app.ports}
        assert isinstance(probe.port, int) or probe.port in names


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed["kind"])
def test_the_seeds_are_accepted(seed):
    assert parse_object(seed).kind == seed["kind"]


@given(mutated_objects())
def test_a_damaged_object_is_accepted_soundly_or_refused(obj):
    before = repr(obj)
    resource, problems = outcome(obj)
    assert (resource is None) == bool(problems)
    assert all(str(problem).isprintable() for problem in problems)
    if isinstance(resource, App):
        check_app(resource)
    assert repr(obj) == before


@given(JSON)
def test_any_json_is_refused_or_accepted(obj):
    with pytest.raises(ManifestError):
        parse_object(obj)


@given(st.text(max_size=30), st.sampled_from(["data", "stringData"]))
def test_a_secret_is_never_shown(value, holder):
    marked = f"hunter2{value}"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}
    try:
        shown = repr(parse_object({**secret, holder: {"a": marked}}))
    except ManifestError as error:
        shown = str(error) + repr(error)
    assert "hunter2" not in shown


def test_problems_come_in_the_order_of_the_document():
    with pytest.raises(ManifestError) as caught:
        parse_object({"spec": 1, "odd": 1, "metadata": {"b": 1, "name": "A"}, "kind": "Pod"})
    paths = [problem.path for problem in caught.value.problems]
    assert paths == ["apiVersion", "spec", "odd", "metadata.b", "metadata.name"]


def test_positions_are_used_when_they_are_known():
    seen = []

    def locate(path):
        seen.append(path)
        return f"x:{len(seen)}"

    with pytest.raises(ManifestError, match=r"^x:1: spec\.selector: is required"):
        parse_object({**SEEDS[3], "spec": {"ports": [{"port": 80}]}}, locate=locate)
    assert seen == [("spec", "selector")]


@pytest.mark.parametrize(
    ("obj", "label"),
    [
        ({"kind": "Deployment", "metadata": {"name": "a"}}, "Deployment/a"),
        ({"kind": "Pod\n", "metadata": {"name": 3}}, "Pod\\n/?"),
        ([], "?/?"),
        ({3: 4}, "?/?"),
    ],
)
def test_without_positions_problems_carry_kind_and_name(obj, label):
    with pytest.raises(ManifestError) as caught:
        parse_object(obj)
    assert {problem.where for problem in caught.value.problems} == {label}


def test_the_error_is_invalid_input_and_survives_pickling():
    error = ManifestError([Problem("f:1", "a.b", "is odd"), Problem("f:2", "", "is odder")])
    assert isinstance(error, InvalidInputError)
    assert error.reason == "InvalidManifest"
    assert str(error) == "f:1: a.b: is odd\nf:2: is odder"
    assert pickle.loads(pickle.dumps(error)).problems == error.problems


def test_the_template_wins_over_the_object():
    obj = copy.deepcopy(SEEDS[1])
    obj["metadata"]["annotations"] = {"limpet.dev/workers": "9", "limpet.dev/queue": "3", "x": "o"}
    obj["spec"]["template"]["metadata"]["annotations"] = {"limpet.dev/workers": "2", "x": "t"}
    app = parse_object(obj)
    assert (app.workers, app.http.queue, app.annotations["x"]) == (2, 3, "t")


def test_a_wide_object_of_mistakes_is_refused_quickly():
    fields = {f"labelz{i}": i for i in range(20_000)}
    with pytest.raises(ManifestError) as caught:
        parse_object({**POD, "metadata": {**fields, "name": "a"}})
    assert len(caught.value.problems) == 20_000
    assert "did you mean labels?" in str(caught.value.problems[0])


@pytest.mark.parametrize("module", ["parse", "quantity", "model"])
def test_plain_objects_need_no_yaml_no_loop_no_engine(module):
    heavy = "{'yaml', '_yaml', 'asyncio', 'socket', 'subprocess', 'ctypes', 'difflib', 'urllib'}"
    code = f"import sys, limpet.manifest.{module}; sys.exit(bool({heavy} & set(sys.modules)))"
    # Without site packages: the .pth files of editable installations import what they like.
    env = {"PYTHONPATH": str(Path(limpet.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-S", "-c", code], check=False, env=env)
    assert done.returncode == 0


def test_the_public_names_are_there():
    import limpet.manifest

    assert all(getattr(limpet.manifest, name) for name in limpet.manifest.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = limpet.manifest.nothing
