import json
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.addresses import Network, find_guard, parse_network
from limpet.egress import Block, Decision, EgressError, EgressPolicy, EgressRule, PortRange


def rule(*destinations, ports="443/tcp", is_anywhere=False):
    """Names, `network` or `network!excepted` texts, and ports like `80-90/udp` or `*/tcp`."""
    names, blocks = [], []
    for text in destinations:
        network, *excepted = text.split("!")
        if text.startswith("*.") or network.rpartition(".")[2].isalpha():
            names.append(text)
        else:
            blocks.append(Block(parse_network(network), tuple(map(parse_network, excepted))))
    return EgressRule(
        names=tuple(names),
        blocks=tuple(blocks),
        is_anywhere=is_anywhere,
        ports=tuple(port_range(part) for part in ports.split(",")),
    )


def port_range(text):
    span, _, protocol = text.partition("/")
    if span == "*":
        return PortRange(protocol)
    first, _, last = span.partition("-")
    return PortRange(protocol, int(first), int(last or first))


def policy(*rules):
    return EgressPolicy(rules)


def asks(of, host, port=443, protocol="tcp"):
    return bool(of.may_ask(host, port, protocol))


def connects(of, address, port=443, protocol="tcp", name=None):
    return bool(of.allows_address(address, port, protocol, asked_name=name))


ANYWHERE = policy(rule(is_anywhere=True, ports="*/tcp,*/udp"))
EVERY_BLOCK = policy(rule("0.0.0.0/0", "::/0", ports="*/tcp,*/udp"))
ADDRESSES = st.one_of(
    st.integers(0, 2**32 - 1).map(IPv4Address),
    st.integers(0, 2**128 - 1).map(IPv6Address),
    st.integers(0, 2**32 - 1).map(lambda n: IPv6Address(0xFFFF << 32 | n)),
    st.integers(0, 2**32 - 1).map(lambda n: IPv6Address(0x64FF9B << 96 | n)),
    st.integers(0, 2**32 - 1).map(lambda n: IPv6Address(0x2002 << 112 | n << 80)),
).map(str)
GUARDED_V4 = st.sampled_from(
    ["127.0.0.1", "127.8.9.10", "169.254.169.254", "0.0.0.0", "224.0.0.251", "255.255.255.255"]
)


def dresses(text):
    """An IPv4 address in every form that leads to it, or carries it."""
    number = int(IPv4Address(text))
    yield text
    yield f"::ffff:{text}"
    yield f"::ffff:{text}%eth0"
    yield f"::{text}"
    yield str(IPv6Address(0xFFFF << 48 | number))
    yield str(IPv6Address(0x64FF9B << 96 | number))
    yield str(IPv6Address(0x2002 << 112 | number << 80 | 1))


# Nothing, and everything


@given(ADDRESSES, st.integers(1, 65_535), st.sampled_from(["tcp", "udp"]))
def test_no_rule_allows_nothing(address, port, protocol):
    for of in (policy(), policy(EgressRule())):
        assert not asks(of, address, port, protocol)
        assert not connects(of, address, port, protocol)
        assert not connects(of, address, port, protocol, name="a.example")
        assert not asks(of, "a.example", port, protocol)


@given(GUARDED_V4)
def test_no_wide_rule_opens_a_guarded_address_in_any_form(address):
    half = policy(rule("0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1", "2002::/16", "64:ff9b::/96"))
    for form in dresses(address):
        for of in (ANYWHERE, EVERY_BLOCK, half):
            assert not asks(of, form)
            assert not connects(of, form)


@given(GUARDED_V4)
def test_no_name_leads_to_a_guarded_address_even_if_it_is_opened(address):
    of = policy(rule("a.example", f"{address}/32", is_anywhere=True))
    assert connects(of, address)
    for form in dresses(address):
        assert asks(of, "a.example")
        assert not connects(of, form, name="a.example")


@given(GUARDED_V4)
def test_a_guarded_address_is_opened_by_naming_it(address):
    of = policy(rule(f"{address}/32"))
    for form in (address, f"::ffff:{address}", f"::ffff:{address}%lo"):
        assert asks(of, form)
        assert connects(of, form)
        assert not connects(of, form, 444)


@pytest.mark.parametrize(
    ("block", "address", "is_open"),
    [
        ("127.0.0.0/8", "127.0.0.1", True),
        ("126.0.0.0/7", "127.0.0.1", False),
        ("127.0.0.0/8!127.0.0.1", "127.0.0.1", False),
        ("169.254.0.0/16", "169.254.169.254", True),
        ("169.254.169.254", "169.254.169.254", True),
        ("169.0.0.0/8", "169.254.169.254", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("::1", "::1", True),
        ("::/96", "::1", False),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("fd00::/8", "fd00:ec2::254", False),
        ("fd00:ec2::/32", "fd00:ec2::254", True),
        ("100.64.0.0/10", "100.100.100.200", False),
        ("100.100.100.200", "100.100.100.200", True),
        ("2002:7f00::/24", "2002:7f00:1::", True),
        ("64:ff9b::7f00:1", "64:ff9b::7f00:1", True),
        ("127.0.0.1", "64:ff9b::7f00:1", True),
        ("127.0.0.1", "2002:7f00:1::", False),
    ],
)
def test_only_a_block_inside_a_guarded_range_opens_it(block, address, is_open):
    assert connects(policy(rule(block)), address) == is_open
    assert asks(policy(rule(block)), address) == is_open


@given(ADDRESSES)
def test_all_destinations_are_all_but_the_guarded_ones(address):
    guard = find_guard(parse_network(address))
    for of in (ANYWHERE, EVERY_BLOCK):
        assert connects(of, address) == (guard is None)
        assert connects(of, address, name="a.example") == (guard is None)


@given(ADDRESSES, ADDRESSES)
def test_more_rules_never_allow_less(address, other):
    one, two = rule(address), rule(other)
    for target in (address, other):
        if connects(policy(one), target) or connects(policy(two), target):
            assert connects(policy(one, two), target)


# Blocks and ports


def test_excepted_addresses_are_left_out_of_their_own_block_only():
    cloud = rule("10.0.0.0/8!10.1.0.0/16")
    assert connects(policy(cloud), "10.0.0.1")
    assert not connects(policy(cloud), "10.1.0.1")
    assert connects(policy(cloud, rule("10.1.2.3")), "10.1.2.3")


def test_an_ipv4_block_holds_for_its_nat64_form():
    of = policy(rule("0.0.0.0/0!10.0.0.0/8"))
    assert connects(of, "64:ff9b::808:808")
    assert not connects(of, "64:ff9b::a00:1")
    assert not connects(of, "2002:808:808::")


@pytest.mark.parametrize(
    ("ports", "port", "protocol", "is_open"),
    [
        ("443/tcp", 443, "tcp", True),
        ("443/tcp", 443, "udp", False),
        ("80-90/tcp", 80, "tcp", True),
        ("80-90/tcp", 90, "tcp", True),
        ("80-90/tcp", 91, "tcp", False),
        ("1/tcp,80-90/udp", 85, "udp", True),
        ("*/tcp", 65_535, "tcp", True),
        ("*/tcp", 0, "tcp", False),
        ("*/tcp", 65_536, "tcp", False),
        ("*/tcp", -1, "tcp", False),
        ("*/udp", 1, "tcp", False),
        ("*/tcp", 1, "sctp", False),
        ("*/tcp", 1, "TCP", False),
    ],
)
def test_ports(ports, port, protocol, is_open):
    of = policy(rule("192.0.2.1", "a.example", ports=ports))
    assert connects(of, "192.0.2.1", port, protocol) == is_open
    assert asks(of, "192.0.2.1", port, protocol) == is_open
    assert asks(of, "a.example", port, protocol) == is_open
    assert connects(of, "198.51.100.1", port, protocol, name="a.example") == is_open


# Names


@pytest.mark.parametrize(
    ("known", "asked", "is_open"),
    [
        ("a.example", "a.example", True),
        ("a.example", "A.Example.", True),
        ("a.example", "b.a.example", False),
        ("a.example", "xa.example", False),
        ("*.example.com", "a.example.com", True),
        ("*.example.com", "a.b.Example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", ".example.com", False),
        ("*.example.com", "badexample.com", False),
        ("*.example.com", "a.example.com.evil", False),
    ],
)
def test_names_are_matched_on_what_was_asked(known, asked, is_open):
    of = policy(rule(known))
    assert asks(of, asked) == is_open
    assert connects(of, "192.0.2.1", name=asked) == is_open


def test_an_address_asked_for_needs_an_address_rule():
    of = policy(rule("a.example"))
    assert not asks(of, "192.0.2.1")
    assert not connects(of, "192.0.2.1")
    assert not connects(of, "192.0.2.1", name="192.0.2.1")
    assert connects(of, "192.0.2.1", name="a.example")


@pytest.mark.parametrize(
    "host",
    ["", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "a b", "a.example\n", "a.example:443",
     "[::1]", "\ud800", "\0", "x" * 100_000, "localhost", "LOCALHOST.", "a.localhost"],
)  # fmt: skip
def test_what_resolvers_take_for_addresses_is_no_name(host):
    answer = ANYWHERE.may_ask(host, 443, "tcp")
    assert not answer
    assert answer.reason.isprintable()
    assert len(answer.reason) < 500
    assert not connects(ANYWHERE, "127.0.0.1", name=host)


@pytest.mark.parametrize(
    ("rules", "is_open"),
    [
        ([rule("10.0.0.0/8")], False),
        ([rule("10.0.0.0/8"), rule("10.0.0.1", ports="53/udp")], True),
        ([rule("10.0.0.0/8"), rule(is_anywhere=True, ports="53/tcp")], True),
        ([rule("b.example"), rule("10.0.0.1", ports="53/udp")], False),
        ([rule("10.0.0.0/8", ports="80/tcp"), rule("10.0.0.1", ports="53/udp")], False),
        ([rule("0.0.0.0/0")], True),
        ([rule("::/0!fd00::/8")], True),
        ([rule(is_anywhere=True)], True),
        ([rule(is_anywhere=True, ports="80/tcp")], False),
    ],
)
def test_which_other_names_may_be_looked_up(rules, is_open):
    assert asks(policy(*rules), "db.plant.example") == is_open


def test_a_name_that_may_be_looked_up_leads_to_allowed_addresses_only():
    of = policy(rule("10.0.0.0/8"), rule(is_anywhere=True, ports="53/udp"))
    assert connects(of, "10.1.2.3", name="db.plant.example")
    assert not connects(of, "192.0.2.1", name="db.plant.example")


# What is told and kept


def test_decisions_say_why():
    of = policy(rule("a.example", "10.0.0.0/8!10.1.0.0/16", ports="443/tcp,80-90/udp"))
    assert of.may_ask("a.example", 443, "tcp").reason == (
        "a.example port 443/tcp is allowed by a.example, 10.0.0.0/8 except 10.1.0.0/16: "
        "443/tcp, 80-90/udp"
    )
    assert "limpet.dev/egress" in of.may_ask("b.example", 443, "tcp").reason
    assert "169.254.0.0/16 (link-local)" in of.may_ask("169.254.169.254", 443, "tcp").reason
    refused = of.allows_address("127.0.0.1", 443, "tcp", asked_name="a.example")
    assert "a.example, which is 127.0.0.1 port 443/tcp, is refused" in refused.reason
    assert bool(Decision(True, "")) is True
    assert bool(Decision(False, "")) is False


def test_rules_are_shown():
    assert policy(
        rule("a.example", "192.0.2.1", ports="*/udp"), EgressRule(is_anywhere=True), EgressRule()
    ).lines() == ("a.example, 192.0.2.1: */udp", "anywhere: every port", "nothing: every port")


RULES = st.builds(
    EgressRule,
    names=st.lists(st.sampled_from(["a.example", "*.b.example"]), max_size=2).map(tuple),
    blocks=st.lists(
        st.builds(
            Block,
            ADDRESSES.map(parse_network),
            st.lists(ADDRESSES.map(parse_network), max_size=2).map(tuple),
        ),
        max_size=2,
    ).map(tuple),
    is_anywhere=st.booleans(),
    ports=st.lists(
        st.builds(
            PortRange,
            st.sampled_from(["tcp", "udp"]),
            st.integers(1, 65_535),
            st.integers(1, 65_535),
        ),
        max_size=2,
    ).map(tuple),
)


@given(st.lists(RULES, max_size=3))
def test_a_policy_survives_json(rules):
    of = EgressPolicy(tuple(rules))
    assert EgressPolicy.from_plain(json.loads(json.dumps(of.plain()))) == of


GOOD = policy(rule("a.example", "10.0.0.0/8!10.1.0.0/16")).plain()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["rules", "names", "blocks", "ports"]), inner)
    ),
)


@given(JSON)
def test_anything_else_is_refused_or_allows_nothing(plain):
    try:
        read = EgressPolicy.from_plain(plain)
    except EgressError:
        return
    assert read == EgressPolicy()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("names", [1]),
        ("blocks", [{"cidr": "ten", "except": []}]),
        ("blocks", [{"cidr": "10.0.0.0/8"}]),
        ("anywhere", 1),
        ("anywhere", None),
        ("ports", [{"protocol": "tcp", "first": 0, "last": 1}]),
        ("ports", [{"protocol": "tcp", "first": True, "last": 1}]),
        ("ports", [{"protocol": "sctp", "first": 1, "last": 1}]),
    ],
)
def test_a_malformed_rule_is_refused(key, value):
    with pytest.raises(EgressError, match="malformed"):
        EgressPolicy.from_plain({"rules": [GOOD["rules"][0] | {key: value}]})


@given(st.text(max_size=40), st.integers(), st.text(max_size=5), st.none() | st.text(max_size=20))
def test_hostile_questions_get_an_answer(host, port, protocol, name):
    assert isinstance(ANYWHERE.may_ask(host, port, protocol), Decision)
    answer = ANYWHERE.allows_address(host, port, protocol, asked_name=name)
    assert isinstance(answer, Decision)


def test_a_network_of_another_version_holds_nothing():
    assert not Network(4, 0, 0).contains(Network(6, 0, 0))
