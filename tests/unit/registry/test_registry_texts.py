"""What registries and operators write: references, challenges, credentials, policies. No I/O."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.manifest.model import ModuleSource
from limpet.manifest.module_source import parse_module_source
from limpet.node.pulling import Step, decide_pull, parse_mirrors, show_progress
from limpet.registry.challenge import Challenge, parse_challenges
from limpet.registry.credentials import CredentialsError, parse_keychain
from limpet.registry.policy import PolicyError, Verdict, parse_policy
from limpet.registry.reference import is_loopback, name_place, name_source, parse_reference

HEX = "0" * 64


@pytest.mark.parametrize(
    ("location", "shown", "endpoint"),
    [
        ("app:1", "docker.io/library/app:1", "https://registry-1.docker.io"),
        ("acme/app:1", "docker.io/acme/app:1", "https://registry-1.docker.io"),
        ("index.docker.io/acme/app:1", "docker.io/acme/app:1", "https://registry-1.docker.io"),
        ("ghcr.io/a/b/c:1", "ghcr.io/a/b/c:1", "https://ghcr.io"),
        ("localhost:5000/a:1", "localhost:5000/a:1", "http://localhost:5000"),
        ("127.0.0.1:5000/a:1", "127.0.0.1:5000/a:1", "http://127.0.0.1:5000"),
        ("[::1]:5000/a:1", "[::1]:5000/a:1", "http://[::1]:5000"),
        ("r.example:443/a:1", "r.example/a:1", "https://r.example"),
        ("R.Example:0444/a:1", "r.example:444/a:1", "https://r.example:444"),
        ("localhost:80/a:1", "localhost/a:1", "http://localhost"),
        ("localhost:443/a:1", "localhost:443/a:1", "http://localhost:443"),
        ("[2001:DB8:0::1]:443/a:1", "[2001:db8::1]/a:1", "https://[2001:db8::1]"),
        ("Docker.io:443/app:1", "docker.io/library/app:1", "https://registry-1.docker.io"),
        (
            "registry-1.docker.io:443/acme/app:1",
            "docker.io/acme/app:1",
            "https://registry-1.docker.io",
        ),
        (f"r.example/a@sha256:{HEX}", f"r.example/a@sha256:{HEX}", "https://r.example"),
    ],
)
def test_references(location, shown, endpoint):
    reference = parse_reference(parse_module_source(f"oci://{location}").location)
    assert str(reference) == shown
    assert reference.endpoint == endpoint


@pytest.mark.parametrize(
    "name", ["localhost.example", "127.0.0.1.example", "10.0.0.1", "[::2]:1", "", "host"]
)
def test_other_hosts_are_not_loopback(name):
    assert not is_loopback(name)


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ("", ()),
        ("Basic", (Challenge("basic"),)),
        ('Basic realm="a, b"', (Challenge("basic", {"realm": "a, b"}),)),
        (
            'Bearer realm="https://a/t",service="r",scope="repository:x:pull,push"',
            (
                Challenge(
                    "bearer",
                    {"realm": "https://a/t", "service": "r", "scope": "repository:x:pull,push"},
                ),
            ),
        ),
        (
            'Negotiate, BASIC realm = plain , Bearer Realm="q\\"uoted"',
            (
                Challenge("negotiate"),
                Challenge("basic", {"realm": "plain"}),
                Challenge("bearer", {"realm": 'q"uoted'}),
            ),
        ),
        ('Bearer realm="first",realm="second"', (Challenge("bearer", {"realm": "first"}),)),
        ('realm="before any scheme"', ()),
        ('Bearer realm="never closed', (Challenge("bearer", {"realm": "never"}),)),
        ('Bearer realm="a\x01b"', (Challenge("bearer"),)),
    ],
)
def test_challenges(header, challenges):
    if header == 'Bearer realm="never closed':
        assert parse_challenges(header)[0].scheme == "bearer"
    elif header.startswith("realm="):
        assert all(challenge.scheme != "bearer" for challenge in parse_challenges(header))
    else:
        assert parse_challenges(header) == challenges


@given(st.text(max_size=300) | st.text(alphabet='aB =,"\\', max_size=300))
def test_any_header_gives_bounded_challenges(header):
    for challenge in parse_challenges(header):
        assert challenge.scheme == challenge.scheme.lower()
        assert len(challenge.parameters) <= 16


@pytest.mark.parametrize("hostile", ['a="' * 4000, "," * 9000, 'a="\\' * 3000, "a " * 5000])
def test_hostile_headers_end(hostile):
    assert len(parse_challenges(hostile)) <= 8


def auth(pair):
    return {"auth": base64.b64encode(pair.encode()).decode()}


def config(**auths):
    return json.dumps({"auths": {key.replace("__", "/"): value for key, value in auths.items()}})


def test_the_longest_path_and_then_the_first_file_counts():
    first = json.dumps({"auths": {"r.example": auth("host:1"), "r.example/acme": auth("acme:2")}})
    second = json.dumps({"auths": {"r.example": auth("late:3"), "*.example.org": auth("wild:4")}})
    keychain = parse_keychain([first, second])
    found = {
        name: credentials and credentials.username
        for name in (
            "r.example/x", "r.example/acme/app", "r.example/acmeevil/app", "a.example.org/x",
            "a.b.example.org/x", "example.org/x", "evil-r.example/x",
        )
        for credentials in [keychain.find(name)]
    }  # fmt: skip
    assert found == {
        "r.example/x": "host",
        "r.example/acme/app": "acme",
        "r.example/acmeevil/app": "host",
        "a.example.org/x": "wild",
        "a.b.example.org/x": None,
        "example.org/x": None,
        "evil-r.example/x": None,
    }


def test_a_key_is_found_however_its_host_is_spelled():
    for key, name in (("GHCR.IO:443", "ghcr.io/a"), ("*.Example.ORG", "r.example.org/a")):
        keychain = parse_keychain([json.dumps({"auths": {key: auth("a:b")}})])
        assert keychain.find(name).username == "a"


def test_docker_hubs_key_is_dockers():
    keychain = parse_keychain([json.dumps({"auths": {"https://index.docker.io/v1/": auth("a:b")}})])
    assert keychain.find("docker.io/library/app").username == "a"


@pytest.mark.parametrize(
    "text", ['{"credsStore": "pass"}', '{"credHelpers": {"r.example": "gcr"}}']
)
def test_helpers_are_refused_where_only_they_would_know(text):
    with pytest.raises(CredentialsError, match="helper program"):
        parse_keychain([text]).find("r.example/app")
    both = json.dumps({**json.loads(text), "auths": {"r.example": auth("a:b")}})
    assert parse_keychain([both]).find("r.example/app").password == "b"


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", '{"auths": []}', '{"auths": {"a": 1}}', '{"auths": {"a": {"auth": 5}}}',
        '{"auths": {"a": {"auth": "c2VjcmV0"}}}', '{"auths": {"a": {"auth": "*secret*"}}}',
        '{"auths": {"a": {"username": "x\\nsecret", "password": "secret"}}}', "{" * 5000,
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_without_showing_it(text):
    with pytest.raises(CredentialsError) as caught:
        parse_keychain([text])
    assert "secret" not in str(caught.value)


def test_secrets_do_not_show():
    keychain = parse_keychain([config(r=auth("user:geheim")), config(x={"identitytoken": "tok"})])
    assert "geheim" not in repr(keychain)
    assert "tok" not in repr(keychain.find("x/a"))
    pair = base64.b64encode(b"user:geheim").decode()
    assert keychain.redact(f"a geheim b {pair} c tok") == "a *** b *** c ***"


def test_the_longest_prefix_of_a_policy_counts():
    policy = parse_policy("*=reject, ghcr.io=accept, ghcr.io/acme/=/etc/acme.pub")
    assert policy.decide("ghcr.io/acme/app").keys == "/etc/acme.pub"
    assert policy.decide("ghcr.io/acme").verdict is Verdict.VERIFY
    assert policy.decide("ghcr.io/acmeevil/app").verdict is Verdict.ACCEPT
    assert policy.decide("ghcr.io.evil/acme/app").verdict is Verdict.REJECT
    assert parse_policy("").decide("any/thing").verdict is Verdict.ACCEPT


EXAMPLE = "ghcr.io/acme=/etc/limpet/acme.pub, docker.io=reject, *=accept"


@pytest.mark.parametrize(
    ("policy", "source", "verdict"),
    [
        (EXAMPLE, "ghcr.io/acme/app:1", Verdict.VERIFY),
        (EXAMPLE, "GHCR.IO/acme/app:1", Verdict.VERIFY),
        (EXAMPLE, "ghcr.io:443/acme/app:1", Verdict.VERIFY),
        (EXAMPLE, "ghcr.io:00443/acme/app:1", Verdict.VERIFY),
        (EXAMPLE, f"Ghcr.io:443/acme/app@sha256:{HEX}", Verdict.VERIFY),
        (EXAMPLE, "ghcr.io:444/acme/app:1", Verdict.ACCEPT),
        (EXAMPLE, "nginx", Verdict.REJECT),
        (EXAMPLE, "x/y", Verdict.REJECT),
        (EXAMPLE, "registry-1.docker.io:443/x/y", Verdict.REJECT),
        (EXAMPLE, "Index.docker.io/x/y", Verdict.REJECT),
        (EXAMPLE, "docker.io:443/x/y", Verdict.REJECT),
        ("index.docker.io=reject", "x/y", Verdict.REJECT),
        ("Registry-1.docker.io:443/x=reject", "x/y", Verdict.REJECT),
        ("GHCR.IO:443/acme=reject", "ghcr.io/acme/app", Verdict.REJECT),
        ("docker.io/nginx=reject", "nginx", Verdict.REJECT),
        ("docker.io/nginx=reject", "nginx/unit", Verdict.REJECT),
        ("docker.io/nginx=reject", "library/nginx:2", Verdict.REJECT),
        ("docker.io/nginx=reject", "acme/nginx", Verdict.ACCEPT),
        ("docker.io/library=reject", "nginx", Verdict.REJECT),
        ("docker.io/nginx=accept, docker.io=reject", "docker.io/nginx:1", Verdict.ACCEPT),
        ("[2001:DB8::0:1]=reject", "[2001:db8::1]:443/a", Verdict.REJECT),
        ("web.example/a=reject", "https://web.example/a/b.wasm", Verdict.REJECT),
        ("web.example/a=reject", "https://WEB.example:443//a/./b.wasm", Verdict.REJECT),
        ("web.example/a=reject", "https://web.example/b/../%61/b.wasm?c", Verdict.REJECT),
        ("web.example=reject", "https://web.example?a.wasm", Verdict.REJECT),
        ("web.example/a=accept, *=reject", "https://web.example/a/../b", Verdict.REJECT),
    ],
)  # fmt: skip
def test_a_rule_holds_for_every_spelling(policy, source, verdict):
    assert parse_policy(policy).decide(name_place(parse_module_source(source))).verdict is verdict


@pytest.mark.parametrize(
    "text",
    [
        "a", "r.io=", "=accept", "r.io=maybe", "r.io=keys.pub", "r.io=accept,r.io/=reject",
        "r.io=accept,R.IO:443=reject", "docker.io/a=accept,docker.io/library/a=reject",
        "ghcr.io/acme*=reject", "*.io=reject", "ghcr.io/acme/app:1=reject", "acme/app=reject",
        f"ghcr.io/a@sha256:{HEX}=reject", "oci://ghcr.io=reject", "ghcr.io:x=reject", "/a=reject",
    ],
)  # fmt: skip
def test_a_policy_that_can_not_be_read_is_refused(text):
    with pytest.raises(PolicyError, match=r"registry\.policy"):
        parse_policy(text)


def test_mirrors():
    assert parse_mirrors("docker.io=m.example:5000, ghcr.io=localhost:1") == {
        "docker.io": "https://m.example:5000",
        "ghcr.io": "http://localhost:1",
    }
    assert parse_mirrors("docker.io=registry-1.docker.io") == {
        "docker.io": "https://registry-1.docker.io"
    }
    assert parse_mirrors("Index.docker.io=M.example:443, GHCR.io:443=m.example") == {
        "docker.io": "https://m.example",
        "ghcr.io": "https://m.example",
    }
    with pytest.raises(PolicyError):
        parse_mirrors("docker.io=https://m.example")


TAG = ModuleSource(scheme="oci", location="r.example/a:1")
LATEST = ModuleSource(scheme="oci", location="r.example/a:latest")
PINNED = ModuleSource(scheme="oci", location="r.example/a:latest", digest=f"sha256:{HEX}")
URL = ModuleSource(scheme="https", location="https://r.example/a.wasm")


@pytest.mark.parametrize(
    ("policy", "source", "is_here", "step"),
    [
        ("", TAG, False, Step.FETCH), ("", TAG, True, Step.USE),
        ("", LATEST, False, Step.FETCH), ("", LATEST, True, Step.ASK),
        ("", PINNED, True, Step.USE), ("", URL, True, Step.ASK),
        ("IfNotPresent", LATEST, True, Step.USE), ("IfNotPresent", URL, True, Step.USE),
        ("Always", TAG, True, Step.ASK), ("Always", TAG, False, Step.FETCH),
        ("Always", PINNED, True, Step.USE),
        ("Never", LATEST, True, Step.USE), ("Never", TAG, False, Step.REFUSE),
    ],
)  # fmt: skip
def test_pull_policies(policy, source, is_here, step):
    assert decide_pull(policy, source, is_here=is_here) is step


def test_names_and_progress():
    assert name_source(TAG) == "oci://r.example/a:1"
    assert name_source(PINNED) == f"oci://r.example/a@sha256:{HEX}"
    assert show_progress(12_900_000, 52_428_800) == "12.3 of 50.0 MiB"
    assert show_progress(1 << 20, 0) == "1.0 MiB"
