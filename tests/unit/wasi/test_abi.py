"""Imports are told apart by their types."""

from __future__ import annotations

import pytest

from limpet.wasi import abi
from limpet.wasi.preview1 import FUNCTIONS


@pytest.mark.parametrize("name", abi.PREVIEW1)
def test_functions_of_preview_1_mean_themselves(name: str) -> None:
    assert abi.resolve(name, abi.parameter_types(name)) == name


@pytest.mark.parametrize(
    ("name", "count", "key"),
    [
        ("sock_accept", 3, "sock_accept"),
        ("sock_accept", 2, "sock_accept_v1"),
        ("sock_accept_v2", 3, "sock_accept"),
        ("sock_bind", 3, "sock_bind"),
        ("sock_bind_v2", 3, "sock_bind"),
        ("sock_connect_v2", 3, "sock_connect"),
        ("sock_getlocaladdr", 4, "sock_getlocaladdr"),
        ("sock_getlocaladdr", 3, "sock_getlocaladdr_v2"),
        ("sock_getlocaladdr_v2", 3, "sock_getlocaladdr_v2"),
        ("sock_getpeeraddr", 4, "sock_getpeeraddr"),
        ("sock_getpeeraddr", 3, "sock_getpeeraddr_v2"),
        ("sock_listen_v2", 2, "sock_listen"),
        ("sock_open_v2", 3, "sock_open"),
        ("sock_recv_v2", 6, "sock_recv"),
        ("sock_recv_from", 7, "sock_recv_from"),
        ("sock_recv_from", 8, "sock_recv_from_v2"),
        ("sock_recv_from_v2", 8, "sock_recv_from_v2"),
        ("sock_send_v2", 5, "sock_send"),
        ("sock_send_to_v2", 7, "sock_send_to"),
    ],
)
def test_the_extension_s_names_and_shapes(name: str, count: int, key: str) -> None:
    assert abi.resolve(name, ["i32"] * count) == key
    assert key in FUNCTIONS


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("sock_accept_v1", ["i32"] * 2),  # a key of ours, and nobody's name
        ("sock_accept", ["i32"] * 4),
        ("sock_accept", ["i32", "i64"]),
        ("sock_recv_from_v2", ["i32"] * 7),
        ("sock_none", []),
        ("", []),
    ],
)
def test_others_mean_nothing(name: str, parameters: list[str]) -> None:
    assert abi.resolve(name, parameters) is None
