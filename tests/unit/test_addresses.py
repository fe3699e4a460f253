from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.addresses import (
    AddressError,
    Network,
    find_guard,
    is_own_name,
    normalise_name,
    other_forms,
    parse_address,
    parse_network,
)

V4 = st.integers(0, 2**32 - 1)
V6 = st.integers(0, 2**128 - 1)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.0.2.7", "192.0.2.7/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::/0", "::/0"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
    ],
)
def test_networks_have_one_text(text, shown):
    assert str(parse_network(text)) == shown


@pytest.mark.parametrize(
    "text",
    ["", "a", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/08", "10.0.0.0/", "/8", "1.2.3",
     "127.1", "0x7f.0.0.1", "010.0.0.1", "::1%lo", "::1/129", "::/0/0", "1.2.3.4%a", "\u0661.2.3.4",
     "1" * 10_000, ":" * 10_000, "\ud800", "::\0"],
)  # fmt: skip
def test_other_texts_are_no_networks(text):
    with pytest.raises(AddressError):
        parse_network(text)


def test_a_zone_is_left_out_of_an_address():
    assert parse_address("fe80::1%eth0") == parse_address("fe80::1")
    assert parse_address("::ffff:127.0.0.1%lo") == parse_address("127.0.0.1")
    for text in ("127.0.0.1%lo", "fe80::1%", "fe80::1%a%b", "fe80::1%" + "a" * 16):
        with pytest.raises(AddressError):
            parse_address(text)


@given(V4 | V6.map(lambda number: number | 1 << 127), st.integers(0, 32), st.data())
def test_containing_is_what_the_standard_library_says(number, prefix, data):
    bits = 32 if number < 2**32 else 128
    network = Network(4 if bits == 32 else 6, number >> (bits - prefix) << (bits - prefix), prefix)
    other = data.draw(st.integers(0, 2**bits - 1))
    known = ip_network(str(network))
    address = IPv4Address(other) if bits == 32 else IPv6Address(other)
    assert network.contains(Network(network.version, other, bits)) == (address in known)
    assert parse_network(str(network)) == network


@given(V4)
def test_an_ipv4_address_is_guarded_in_every_form(number):
    plain = Network(4, number, 32)
    assert parse_address(f"::ffff:{IPv4Address(number)}") == plain
    for form in (0x64FF9B << 96 | number, 0x2002 << 112 | number << 80 | 7, 0xFFFF << 48 | number):
        carried = parse_address(str(IPv6Address(form)))
        assert (find_guard(carried) is None) == (find_guard(plain) is None)
    assert other_forms(Network(6, 0x64FF9B << 96 | number, 128))[1] == plain
    assert find_guard(Network(6, number, 128)) is not None  # ::a.b.c.d


@given(V4)
def test_what_the_standard_library_calls_special_is_guarded(number):
    address = IPv4Address(number)
    is_special = (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
    )
    if is_special:
        assert find_guard(Network(4, number, 32)) is not None


@given(V6)
def test_so_it_is_in_ipv6(number):
    address = IPv6Address(number)
    is_special = (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address.is_site_local
        or address.teredo is not None
    )
    if is_special:
        assert find_guard(Network(6, number, 128)) is not None


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("127.255.255.255", "loopback"),
        ("::1", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("239.255.255.250", "multicast"),
        ("ff02::fb", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("100.100.100.200", "cloud metadata"),
        ("fd00:ec2::254", "cloud metadata"),
        ("2002:7f00:1::", "loopback as 6to4"),
        ("64:ff9b::a9fe:a9fe", "link-local as NAT64"),
        ("::127.0.0.1", "IPv4-compatible"),
    ],
)
def test_guards_say_what_they_are(text, what):
    assert find_guard(parse_address(text)).what == what


@pytest.mark.parametrize(
    "text",
    ["10.0.0.1", "192.168.1.1", "100.64.0.1", "8.8.8.8", "fd00::1", "2001:db8::1", "2002::1"],
)
def test_other_addresses_are_not_guarded(text):
    assert (find_guard(parse_address(text)) is None) == (text != "2002::1")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("boiler", "boiler"),
        ("3com.example", "3com.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("0xdeadbeef.x", "0xdeadbeef.x"),
        ("", None),
        (".", None),
        ("example..com", None),
        ("a_b.example", None),
        ("-a.example", None),
        ("b\u00fccher.example", None),
        ("a" * 64 + ".example", None),
        ("a." * 127 + "a.a", None),
        ("127.1", None),
        ("2130706433", None),
        ("0x7f000001", None),
        ("example.0x", None),
        ("example.com\n", None),
        ("*.example.com", None),
    ],
)
def test_names(text, name):
    assert normalise_name(text) == name


def test_the_device_s_own_names():
    assert is_own_name("localhost")
    assert is_own_name("a.localhost")
    assert not is_own_name("localhost.example")
