from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.addresses import parse_network
from limpet.egress import Block, EgressPolicy, EgressRule, PortRange
from limpet.manifest.model import (
    App,
    ConfigMap,
    ContainerPort,
    EnvFrom,
    EnvVar,
    Exposure,
    Facility,
    HttpOptions,
    KeyRef,
    LabelExpression,
    LabelSelector,
    ModuleSource,
    Mount,
    NetworkPolicy,
    PersistentVolumeClaim,
    Probe,
    RestartPolicy,
    Secret,
    Service,
    ServicePort,
    Trigger,
)
from limpet.plan import (
    EVERY_FACILITY,
    AppKey,
    Catalog,
    PlanError,
    compile_listeners,
    compile_plan,
    denied_capabilities,
    missing_facilities,
)

DIGEST = "sha256:" + "a" * 64
OWN = "app default/a"


def app(**changes):
    defaults = {
        "kind": "Deployment",
        "namespace": "default",
        "name": "a",
        "source": ModuleSource(scheme="file", location="a.wasm"),
        "trigger": Trigger.COMMAND,
    }
    return App(**(defaults | changes))


def http_app(*ports, **changes):
    return app(trigger=Trigger.HTTP, ports=ports, pod_labels={"app": "a"}, **changes)


def plan(of, *resources, digest=DIGEST, engine="wasmtime", node_name="rock", **node):
    return compile_plan(
        of, digest=digest, engine=engine, node_name=node_name, catalog=Catalog(resources), **node
    )


def config(name="c", namespace="default", **data):
    return ConfigMap(
        namespace=namespace, name=name, data={key: value.encode() for key, value in data.items()}
    )


def env(*variables, resources=(), **changes):
    return dict(plan(app(env=variables, **changes), *resources).env)


def literal(name, value):
    return EnvVar(name=name, value=value)


# Arguments and variables


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("", ""),
        ("$(A)", "1"),
        ("x$(A)y$(B)z", "x1y2z"),
        ("$(A)$(A)", "11"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$(A)", "$$(A)"),
        ("$$", "$"),
        ("$", "$"),
        ("$A", "$A"),
        ("${A}", "${A}"),
        ("$(A", "$(A"),
        ("$()", "$()"),
        ("$(A )", "$(A )"),
        ("$($(A))", "$(1)"),
        ("$(REF)", "$(A)"),
        ("$(a.b-c)", "3"),
        ("100%$", "100%$"),
    ],
)
def test_references_are_expanded_as_kubernetes_does(text, expanded):
    variables = (
        literal("A", "1"),
        literal("B", "2"),
        literal("a.b-c", "3"),
        literal("REF", "$$(A)"),
        literal("X", text),
    )
    compiled = plan(app(env=variables, args=(text,)))
    assert dict(compiled.env)["X"] == expanded
    assert compiled.args == ("a", expanded)


def test_a_variable_sees_those_before_it_and_not_those_after_it():
    found = env(literal("B", "$(A)"), literal("A", "1"), literal("C", "$(A)$(C)"))
    assert found == {"B": "$(A)", "A": "1", "C": "1$(C)"}


def test_a_variable_replaces_an_earlier_one_of_its_name():
    assert env(literal("A", "1"), literal("A", "$(A)2")) == {"A": "12"}


@given(st.text(max_size=20))
def test_text_without_references_is_left_alone(text):
    plain = text.replace("$", "")
    assert env(literal("X", plain)) == {"X": plain}
    assert env(literal("X", plain.replace("a", "$$"))) == {"X": plain.replace("a", "$")}


@pytest.mark.parametrize(
    ("command", "args", "container", "argv"),
    [
        ((), (), "", ("a",)),
        ((), ("-v",), "web", ("web", "-v")),
        (("run", "it"), ("-v",), "web", ("run", "it", "-v")),
        (("$(A)",), ("$(A)",), "", ("1", "1")),
    ],
)
def test_the_command_replaces_the_program_s_name(command, args, container, argv):
    compiled = plan(
        app(command=command, args=args, container_name=container, env=(literal("A", "1"),))
    )
    assert compiled.args == argv


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "a"),
        ("metadata.namespace", "default"),
        ("spec.nodeName", "rock"),
        ("metadata.labels['app']", "web"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['note']", "hi"),
    ],
)
def test_a_field_of_the_pod_is_a_value(path, value):
    variable = EnvVar(name="X", field_path=path)
    found = env(variable, pod_labels={"app": "web"}, annotations={"note": "hi"})
    assert found == {"X": value}


def test_a_field_that_nobody_knows_is_refused():
    with pytest.raises(PlanError) as caught:
        env(EnvVar(name="X", field_path="status.podIP"))
    assert (caught.value.reason, caught.value.is_final) == ("InvalidField", True)


def ref(kind="ConfigMap", name="c", key="k", *, is_optional=False):
    return EnvVar(name="X", ref=KeyRef(kind=kind, name=name, key=key, is_optional=is_optional))


def test_a_key_of_a_configmap_or_secret_is_a_value():
    secret = Secret(namespace="default", name="c", data={"k": b"secret"})
    assert env(ref(), resources=[config(k="$(NOT) expanded"), secret]) == {"X": "$(NOT) expanded"}
    assert env(ref("Secret"), resources=[config(k="no"), secret]) == {"X": "secret"}


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ([], "ConfigMap default/c does not exist"),
        ([config(namespace="other", k="v")], "ConfigMap default/c does not exist"),
        ([Secret(namespace="default", name="c", data={"k": b"v"})], "does not exist"),
        ([config(other="v")], "ConfigMap default/c has no key k"),
    ],
)
def test_what_a_reference_needs_must_be_there_unless_it_is_optional(resources, message):
    with pytest.raises(PlanError, match=message) as caught:
        env(ref(), resources=resources)
    assert (caught.value.reason, caught.value.is_final) == ("MissingConfig", False)
    assert env(ref(is_optional=True), resources=resources) == {}


def test_every_key_of_an_object_can_become_a_variable():
    sources = (
        EnvFrom(kind="ConfigMap", name="c"),
        EnvFrom(kind="Secret", name="s", prefix="S_"),
        EnvFrom(kind="ConfigMap", name="none", is_optional=True),
    )
    found = env(
        literal("A", "own $(S_B)"),
        env_from=sources,
        resources=[
            config(A="1", B="$(A)"),
            Secret(namespace="default", name="s", data={"B": b"2"}),
        ],
    )
    assert found == {"A": "own 2", "B": "$(A)", "S_B": "2"}


def test_the_later_of_two_objects_wins():
    sources = (EnvFrom(kind="ConfigMap", name="c"), EnvFrom(kind="ConfigMap", name="d"))
    found = env(env_from=sources, resources=[config(A="1"), config("d", A="2")])
    assert found == {"A": "2"}


def test_a_missing_object_is_said():
    with pytest.raises(PlanError, match="Secret default/s does not exist; apply it"):
        env(env_from=(EnvFrom(kind="Secret", name="s"),))


@pytest.mark.parametrize("data", [b"\xff", b"a\0b"])
def test_bytes_are_no_variable(data):
    found = ConfigMap(namespace="default", name="c", data={"k": data})
    with pytest.raises(PlanError, match="mount it as a file") as caught:
        env(ref(), resources=[found])
    assert caught.value.reason == "InvalidConfig"
    with pytest.raises(PlanError, match="mount it as a file"):
        env(env_from=(EnvFrom(kind="ConfigMap", name="c"),), resources=[found])


def test_secrets_are_not_shown():
    secret = Secret(namespace="default", name="c", data={"k": b"hunter2"})
    mount = Mount(kind="Secret", source="c", path="/s")
    compiled = plan(app(env=(ref("Secret"),), mounts=(mount,)), secret)
    assert "hunter2" not in repr(compiled)


# Mounts


def mounts(*found, resources=()):
    return plan(app(mounts=found), *resources).mounts


def test_volumes_know_their_size():
    claim = PersistentVolumeClaim(namespace="default", name="data", size_bytes=7)
    planned = mounts(
        Mount(kind="PersistentVolumeClaim", source="data", path="/data"),
        Mount(kind="EmptyDir", source="tmp", path="/tmp", size_limit_bytes=8, medium="Memory"),
        Mount(kind="ConfigMap", source="c", path="/c"),
        resources=[claim, config()],
    )
    assert [mount.size_bytes for mount in planned] == [7, 8, None]
    assert [mount.medium for mount in planned] == ["", "Memory", ""]


def test_volumes_keep_their_kind():
    claim = PersistentVolumeClaim(namespace="default", name="data", size_bytes=1)
    data, scratch = mounts(
        Mount(kind="PersistentVolumeClaim", source="data", path="/data"),
        Mount(kind="EmptyDir", source="tmp", path="/tmp", is_read_only=True),
        resources=[claim],
    )
    assert (data.kind, data.source, data.path, data.is_read_only) == (
        "PersistentVolumeClaim",
        "data",
        "/data",
        False,
    )
    assert (scratch.kind, scratch.is_read_only) == ("EmptyDir", True)


def test_a_claim_must_be_there():
    with pytest.raises(PlanError) as caught:
        mounts(Mount(kind="PersistentVolumeClaim", source="data", path="/data"))
    assert (caught.value.reason, caught.value.is_final) == ("MissingVolume", False)


@pytest.mark.parametrize(
    ("changes", "files"),
    [
        ({}, (("a", b"1"), ("b", b"\xff"))),
        ({"items": {"b": "dir/z", "a": "y"}}, (("dir/z", b"\xff"), ("y", b"1"))),
        ({"items": {"a": "y", "none": "x"}, "is_optional": True}, (("y", b"1"),)),
    ],
)
def test_a_configmap_becomes_files(changes, files):
    resource = ConfigMap(namespace="default", name="c", data={"b": b"\xff", "a": b"1"})
    mount = Mount(kind="ConfigMap", source="c", path="/c", **changes)
    [planned] = mounts(mount, resources=[resource])
    assert (planned.kind, planned.is_read_only, planned.files) == ("Files", True, files)


def test_files_that_are_missing_are_said():
    mount = Mount(kind="Secret", source="c", path="/c", items={"k": "f"})
    with pytest.raises(PlanError, match="Secret default/c does not exist"):
        mounts(mount)
    empty = Secret(namespace="default", name="c", data={})
    with pytest.raises(PlanError, match="Secret default/c has no key k"):
        mounts(mount, resources=[empty])
    [planned] = mounts(replace(mount, is_optional=True))
    assert planned.files == ()


# Listeners


def service(*ports, name="s", namespace="default", selector=None, exposure=Exposure.CLUSTER_IP):
    selector = {"app": "a"} if selector is None else selector
    return Service(
        namespace=namespace, name=name, selector=selector, ports=ports, exposure=exposure
    )


def addresses(of, *resources):
    return [
        (found.host, found.port, found.origin)
        for found in compile_listeners(of, Catalog(resources))
    ]


PORT = ContainerPort(container_port=8080, name="web")
SERVICE = "service default/s"


@pytest.mark.parametrize(
    ("of", "resources", "expected"),
    [
        (http_app(PORT), [], [("127.0.0.1", 8080, OWN)]),
        (http_app(), [], []),
        (
            http_app(ContainerPort(container_port=8080, host_port=80)),
            [],
            [("0.0.0.0", 80, OWN)],
        ),
        (
            http_app(ContainerPort(container_port=8080, host_port=80, host_ip="192.0.2.1")),
            [],
            [("192.0.2.1", 80, OWN)],
        ),
        (
            http_app(PORT),
            [service(ServicePort(port=80, target_port=8080))],
            [("127.0.0.1", 80, SERVICE)],
        ),
        (
            http_app(PORT),
            [service(ServicePort(port=80, target_port="web"))],
            [("127.0.0.1", 80, SERVICE)],
        ),
        (
            http_app(PORT),
            [service(ServicePort(port=80, target_port=8080), exposure=Exposure.LOAD_BALANCER)],
            [("0.0.0.0", 80, SERVICE)],
        ),
        (
            http_app(PORT),
            [
                service(
                    ServicePort(port=80, target_port=8080, node_port=30080),
                    exposure=Exposure.NODE_PORT,
                )
            ],
            [("127.0.0.1", 80, SERVICE), ("0.0.0.0", 30080, SERVICE)],
        ),
        (
            http_app(PORT),
            [service(ServicePort(port=80, target_port=8080), exposure=Exposure.NODE_PORT)],
            [("127.0.0.1", 80, SERVICE)],
        ),
        (
            http_app(ContainerPort(container_port=8080, host_port=8000)),
            [service(ServicePort(port=80, target_port=8080))],
            [("127.0.0.1", 80, SERVICE), ("0.0.0.0", 8000, OWN)],
        ),
        (
            http_app(PORT, ContainerPort(container_port=9090)),
            [service(ServicePort(port=80, target_port=8080))],
            [("127.0.0.1", 80, SERVICE), ("127.0.0.1", 9090, OWN)],
        ),
        (
            http_app(PORT),
            [
                service(ServicePort(port=80, target_port=8080), name="t"),
                service(ServicePort(port=81, target_port=8080)),
            ],
            [("127.0.0.1", 81, SERVICE), ("127.0.0.1", 80, "service default/t")],
        ),
    ],
    ids=[
        "a port on loopback",
        "no port",
        "a host port",
        "a host port of one address",
        "a service",
        "a service by name",
        "a load balancer",
        "a node port",
        "a node port without number",
        "a service and a host port",
        "two ports",
        "two services",
    ],
)
def test_where_an_app_answers(of, resources, expected):
    assert addresses(of, *resources) == expected


@pytest.mark.parametrize(
    "stranger",
    [
        service(ServicePort(port=80, target_port=8080), selector={"app": "b"}),
        service(ServicePort(port=80, target_port=8080), selector={"app": "a", "x": "y"}),
        service(ServicePort(port=80, target_port=8080), selector={}),
        service(ServicePort(port=80, target_port=8080), namespace="other"),
        service(ServicePort(port=80, target_port=9999)),
        service(ServicePort(port=80, target_port="other")),
        service(),
    ],
)
def test_a_service_of_others_opens_nothing(stranger):
    assert addresses(http_app(PORT), stranger) == [("127.0.0.1", 8080, OWN)]


def test_a_port_without_name_is_not_meant_by_a_service_without_target():
    unnamed = ContainerPort(container_port=8080)
    nothing = service(ServicePort(port=80, target_port=""))
    assert addresses(http_app(unnamed), nothing) == [("127.0.0.1", 8080, OWN)]


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0, OWN)),
        ("0.0.0.0:80", ("0.0.0.0", 80, OWN)),
        ("[::1]:8080", ("::1", 8080, OWN)),
    ],
)
def test_the_annotation_replaces_everything_else(listen, expected):
    of = http_app(PORT, http=HttpOptions(listen=listen))
    assert addresses(of, service(ServicePort(port=80, target_port=8080))) == [expected]


def test_an_http_app_needs_a_port():
    with pytest.raises(PlanError) as caught:
        plan(http_app())
    assert (caught.value.reason, caught.value.is_final) == ("NoPort", True)


def test_a_command_listens_nowhere():
    assert plan(app(ports=(PORT,))).listeners == ()


# Egress


def tcp(*blocks, port=443, is_anywhere=False):
    return EgressRule(
        blocks=tuple(Block(parse_network(text)) for text in blocks),
        is_anywhere=is_anywhere,
        ports=(PortRange("tcp", port, port),),
    )


def network_policy(*rules, name="p", namespace="default", expressions=(), **labels):
    selector = LabelSelector(match_labels=labels, match_expressions=expressions)
    return NetworkPolicy(namespace=namespace, name=name, selector=selector, egress=rules)


def test_without_rules_an_app_connects_to_nothing():
    assert plan(app()).egress == EgressPolicy()
    assert plan(app(), network_policy()).egress == EgressPolicy()


def test_policies_and_the_annotation_add_up():
    own, one, two = tcp("10.0.0.1"), tcp("10.0.0.2"), tcp("10.0.0.3", is_anywhere=True)
    found = plan(
        app(egress=(own,), pod_labels={"app": "a"}),
        network_policy(two, one, name="z"),
        network_policy(one, own, name="y", app="a"),
    ).egress
    assert found == EgressPolicy((own, one, two))


@pytest.mark.parametrize(
    ("expression", "is_selected"),
    [
        (("tier", "In", ("edge", "core")), True),
        (("tier", "In", ("core",)), False),
        (("tier", "NotIn", ("core",)), True),
        (("none", "NotIn", ("core",)), True),
        (("none", "In", ("core",)), False),
        (("tier", "Exists", ()), True),
        (("none", "Exists", ()), False),
        (("none", "DoesNotExist", ()), True),
        (("tier", "DoesNotExist", ()), False),
    ],
)
def test_expressions_select_as_in_kubernetes(expression, is_selected):
    key, operator, values = expression
    found = LabelExpression(key=key, operator=operator, values=values)
    of = app(pod_labels={"app": "a", "tier": "edge"})
    assert bool(plan(of, network_policy(tcp("10.0.0.1"), expressions=(found,))).egress.rules) == (
        is_selected
    )
    # All of a selector's parts must hold.
    assert not plan(of, network_policy(tcp("10.0.0.1"), expressions=(found,), app="b")).egress.rules


@pytest.mark.parametrize(
    "stranger",
    [
        network_policy(tcp("10.0.0.1"), namespace="other"),
        network_policy(tcp("10.0.0.1"), app="b"),
        network_policy(tcp("10.0.0.1"), app="a", tier="edge"),
    ],
)
def test_a_policy_of_others_allows_nothing(stranger):
    assert plan(app(pod_labels={"app": "a"}), stranger).egress == EgressPolicy()


# What the node must have, and allow


def test_an_app_does_not_run_without_what_it_requires():
    of = app(requires=(Facility.CGROUP, Facility.ENCRYPTION, Facility.LANDLOCK))
    assert plan(of).app is of
    with pytest.raises(PlanError, match="limpet doctor") as caught:
        plan(of, available_facilities=frozenset({"landlock", "user"}))
    assert (caught.value.reason, caught.value.is_final) == ("MissingFacility", True)
    assert "cgroup (limits" in str(caught.value)
    assert "encryption (encrypted" in str(caught.value)
    assert "landlock" not in str(caught.value)
    assert missing_facilities(of, EVERY_FACILITY) is None
    assert missing_facilities(app(), frozenset()) is None


@pytest.mark.parametrize("name", sorted(EVERY_FACILITY))
def test_every_facility_can_be_missing(name):
    of = app(requires=(Facility(name),))
    assert name in str(missing_facilities(of, EVERY_FACILITY - {name}))


def test_capabilities_are_the_operator_s_to_give():
    of = app(capabilities=("NET_BIND_SERVICE", "NET_RAW"))
    with pytest.raises(PlanError, match=r"sandbox\.allowed_capabilities") as caught:
        plan(of, allowed_capabilities=frozenset({"CAP_NET_BIND_SERVICE"}))
    assert (caught.value.reason, caught.value.is_final) == ("CapabilityNotAllowed", True)
    assert "adds NET_RAW, which" in str(caught.value)
    assert plan(of, allowed_capabilities=frozenset({"CAP_NET_BIND_SERVICE", "NET_RAW"})).app is of
    assert denied_capabilities(app(), frozenset()) is None


# The plan


def test_a_plan_knows_its_size_and_manners():
    claim = PersistentVolumeClaim(namespace="default", name="data", size_bytes=1)
    volume = Mount(kind="PersistentVolumeClaim", source="data", path="/data")
    scratch = Mount(kind="EmptyDir", source="tmp", path="/tmp")
    idle = HttpOptions(idle_timeout_seconds=10)
    assert plan(app(replicas=3, workers=2)).slots == 6
    assert plan(app()).key == AppKey("default", "a")
    assert not plan(http_app(PORT)).scales_to_zero
    assert plan(http_app(PORT, http=idle)).scales_to_zero
    assert not plan(app(http=idle)).scales_to_zero
    assert plan(app(mounts=(volume,)), claim).writes_volumes
    assert not plan(app(mounts=(replace(volume, is_read_only=True),)), claim).writes_volumes
    assert not plan(app(mounts=(scratch,))).writes_volumes


def test_the_worker_keeps_a_part_of_the_memory():
    assert plan(app()).guest_memory_bytes == 60 << 20
    assert plan(app(memory_bytes=16 << 20)).guest_memory_bytes == 12 << 20


def test_a_change_of_policy_needs_no_new_workers():
    changed = plan(BASE, network_policy(tcp("10.0.0.1")))
    assert changed.fingerprint == plan(BASE).fingerprint
    assert changed != plan(BASE)


SAME = {
    "labels": {"labels": {"a": "b"}},
    "annotations": {"annotations": {"a": "b"}},
    "replicas": {"replicas": 5},
    "workers": {"workers": 4},
    "backoff limit": {"backoff_limit": 1},
    "restart policy": {"restart_policy": RestartPolicy.NEVER},
    "egress": {"egress": (tcp("10.0.0.1"),)},
    "requirements": {"requires": (Facility.CGROUP,)},
}
DIFFERENT = {
    "command": {"command": ("x",)},
    "args": {"args": ("x",)},
    "env": {"env": (literal("A", "2"),)},
    "memory": {"memory_bytes": 1},
    "cpu": {"cpu_cores": 1.0},
    "pids": {"pids": 65},
    "medium": {"mounts": (Mount(kind="EmptyDir", source="t", path="/t", medium="Memory"),)},
    "deadline": {"deadline_seconds": 1.0},
    "grace": {"grace_seconds": 1.0},
    "mounts": {"mounts": (Mount(kind="EmptyDir", source="t", path="/t"),)},
    "probe": {"liveness": Probe(path="/", port=1)},
    "http": {"http": HttpOptions(queue=1)},
    "listener": {"ports": (ContainerPort(container_port=9),)},
}
BASE = http_app(PORT, env=(literal("A", "1"),))


@pytest.mark.parametrize("changes", SAME.values(), ids=SAME)
def test_some_changes_need_no_new_workers(changes):
    assert plan(replace(BASE, **changes)).fingerprint == plan(BASE).fingerprint


@pytest.mark.parametrize("changes", DIFFERENT.values(), ids=DIFFERENT)
def test_other_changes_do(changes):
    assert plan(replace(BASE, **changes)).fingerprint != plan(BASE).fingerprint


def test_what_an_app_refers_to_counts_by_its_value():
    of = app(env=(ref(),), mounts=(Mount(kind="ConfigMap", source="d", path="/d"),))
    fingerprints = {
        plan(of, config(k=value), config("d", f=file)).fingerprint
        for value in ("1", "2")
        for file in ("1", "2")
    }
    assert len(fingerprints) == 4
    one = plan(of, config(k="1", other="x"), config("d", f="1")).fingerprint
    assert one in fingerprints
    opened = service(ServicePort(port=80, target_port=8080))
    assert plan(BASE, opened).fingerprint != plan(BASE).fingerprint


def test_module_engine_and_node_count_where_they_matter():
    assert plan(BASE, digest="sha256:" + "b" * 64).fingerprint != plan(BASE).fingerprint
    assert plan(BASE, engine="wasmedge").fingerprint != plan(BASE).fingerprint
    assert plan(BASE, node_name="pebble").fingerprint == plan(BASE).fingerprint


def test_the_same_plan_has_the_same_fingerprint_in_every_order_of_labels():
    one = replace(BASE, pod_labels={"app": "a", "b": "c"})
    other = replace(BASE, pod_labels={"b": "c", "app": "a"})
    assert plan(one).fingerprint == plan(other).fingerprint
    assert plan(one) == plan(replace(one))


def test_a_catalog_finds_by_kind_namespace_and_name():
    catalog = Catalog([config("b"), config("a"), config("a", namespace="other"), BASE])
    assert catalog.get(ConfigMap, "other", "a").namespace == "other"
    assert catalog.get(Secret, "default", "a") is None
    assert [(c.namespace, c.name) for c in catalog.all(ConfigMap)] == [
        ("default", "a"),
        ("default", "b"),
        ("other", "a"),
    ]
