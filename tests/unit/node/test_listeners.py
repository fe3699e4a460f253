import os
import socket
import sys
import traceback
from pathlib import Path

import pytest

from limpet.node.listeners import Listeners, bind, format_address
from limpet.plan import Listener, PlanError


class Launcher:
    """Notes what it is asked to keep and to drop."""

    def __init__(self):
        self.kept = {}

    def keep(self, name, listening):
        self.kept[name] = listening.fileno()

    def drop(self, name):
        del self.kept[name]


@pytest.fixture
def launcher():
    return Launcher()


@pytest.fixture
def listeners(launcher):
    listeners = Listeners({}, keep=launcher.keep, drop=launcher.drop)
    yield listeners
    listeners.close_unused([])
    assert launcher.kept == {}


@pytest.fixture
def taken():
    """A port that another program has."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.fixture
def free():
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        return other.getsockname()[1]


def listener(port, *, host="127.0.0.1", origin="app default/a"):
    return Listener(host, port, origin)


def test_a_socket_listens_and_the_launcher_holds_it(listeners, launcher, free):
    found = listeners.open(listener(free))
    assert format_address(found) == f"127.0.0.1:{free}"
    assert launcher.kept == {f"127.0.0.1:{free}": found.fileno()}
    with socket.create_connection(("127.0.0.1", free)) as client:
        accepted, _ = found.accept()
        with accepted:
            assert accepted.getpeername() == client.getsockname()
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert not found.getblocking()
    assert not os.get_inheritable(found.fileno())


def test_the_same_listener_gets_the_same_socket(listeners, free):
    assert listeners.open(listener(free)) is listeners.open(listener(free))


def test_another_origin_is_refused_and_both_are_named(listeners, free):
    listeners.open(listener(free))
    with pytest.raises(PlanError) as caught:
        listeners.open(listener(free, origin="service default/b"))
    assert caught.value.reason == "PortInUse"
    assert not caught.value.is_final
    assert "app default/a" in str(caught.value)
    assert "service default/b" in str(caught.value)


def test_a_port_of_another_program_is_refused_until_it_is_free(listeners, launcher, free):
    with socket.create_server(("127.0.0.1", free)):
        with pytest.raises(PlanError) as caught:
            listeners.open(listener(free))
        assert caught.value.reason == "PortInUse"
        assert "another program" in str(caught.value)
        assert launcher.kept == {}
        with pytest.raises(PlanError, match="another program"):
            listeners.open(listener(free, origin="service default/b"))
    listeners.open(listener(free, origin="service default/b"))


def test_two_free_ports_are_not_one(listeners):
    first = listeners.open(listener(0))
    second = listeners.open(listener(0, origin="app default/b"))
    assert first is not second
    assert listeners.open(listener(0)) is first


def test_an_address_of_another_device_is_refused(listeners):
    with pytest.raises(PlanError) as caught:
        listeners.open(listener(0, host="192.0.2.1"))
    assert caught.value.reason == "AddressUnavailable"
    assert "192.0.2.1" in str(caught.value)


def test_what_is_no_address_is_refused(listeners):
    with pytest.raises(PlanError) as caught:
        listeners.open(listener(0, host="256.256.256.256.256"))
    assert caught.value.reason == "ListenFailed"


def test_a_port_for_root_is_refused_to_others():
    start = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if start <= 1:
        pytest.skip("this kernel lets everybody open every port")
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            listeners = Listeners({}, keep=lambda *_: None, drop=lambda *_: None)
            try:
                listeners.open(listener(start - 1))
            except PlanError as error:
                os._exit(0 if error.reason == "PortForbidden" else 2)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_an_ipv6_address_is_only_that(listeners):
    found = listeners.open(listener(0, host="::1"))
    assert format_address(found).startswith("[::1]:")
    assert found.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def test_an_inherited_socket_is_used_again(launcher):
    inherited = bind("127.0.0.1", 0)
    port = inherited.getsockname()[1]
    name = f"127.0.0.1:{port}"
    launcher.kept[name] = inherited.fileno()
    with socket.create_connection(("127.0.0.1", port)):
        listeners = Listeners({name: inherited}, keep=launcher.keep, drop=launcher.drop)
        found = listeners.open(listener(port))
        assert found is inherited
        accepted, _ = found.accept()
        accepted.close()
    listeners.close_unused([])
    assert inherited.fileno() == -1


def test_what_nobody_wants_any_more_is_closed_and_can_be_had_by_others(listeners, launcher, free):
    old = listeners.open(listener(free))
    other = listeners.open(listener(0))
    listeners.close_unused([listener(0)])
    assert old.fileno() == -1
    assert list(launcher.kept) == ["127.0.0.1:0 app default/a"]
    assert other.fileno() != -1
    listeners.open(listener(free, origin="service default/b"))


def test_a_socket_that_can_not_be_bound_is_closed(taken):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Address already in use"):
        bind("127.0.0.1", taken)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("host", "port", "name"),
    [
        ("127.0.0.1", 80, "127.0.0.1:80"),
        ("::1", 80, "[::1]:80"),
        ("127.0.0.1", 0, "127.0.0.1:0 app default/a"),
    ],
)
def test_a_listener_is_kept_under_its_address(host, port, name):
    assert listener(port, host=host).name == name
