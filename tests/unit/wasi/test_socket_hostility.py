"""Whatever a guest calls, in whatever order: it gets an error number, or ends."""

from __future__ import annotations

import random
from struct import pack_into

from fuzz_network import PORT, FuzzNetwork
from hypothesis import given, settings
from hypothesis import strategies as st
from socket_calls import ADDRESS, ADDRESS_RECORD, DATA, RESULT, VECTORS, Caller

from limpet.wasi import abi
from limpet.wasi.endings import GuestEnd

FUNCTIONS = sorted(
    [name for name in abi.PARAMETERS if name.startswith("sock_")]
    + ["fd_close", "fd_fdstat_set_flags", "fd_read", "fd_renumber", "fd_write", "poll_oneoff"]
)
PLACES = (ADDRESS, ADDRESS_RECORD, DATA, RESULT, VECTORS)
SMALL = st.integers(0, 16)
NUMBERS = st.one_of(
    SMALL, SMALL, st.sampled_from((*PLACES, PORT, 128)), st.integers(0, (1 << 32) - 1)
)
CALLS = st.lists(
    st.tuples(st.sampled_from(FUNCTIONS), st.lists(NUMBERS, min_size=9, max_size=9)),
    min_size=1,
    max_size=40,
)


@given(seed=st.integers(0, 1000), calls=CALLS, words=st.lists(NUMBERS, max_size=32))
@settings(max_examples=150)
def test_any_sequence_of_calls(
    seed: int, calls: list[tuple[str, list[int]]], words: list[int]
) -> None:
    network = FuzzNetwork(random.Random(seed))
    caller = Caller(network, deadline_seconds=0.01)
    # What most sequences of calls need to get anywhere.
    caller.done("sock_open", 1, 2, RESULT)
    caller.done("sock_bind", 3, caller.address("0.0.0.0"), PORT)
    caller.done("sock_listen", 3, 1)
    for place in PLACES:
        for index, word in enumerate(words):
            pack_into("<I", caller.bytes, place + 4 * index, word)
    try:
        for name, arguments in calls:
            number = caller.call(name, *arguments[: len(abi.PARAMETERS[name])])
            assert 0 <= number < 88
    except GuestEnd:
        pass
    finally:
        caller.close()
        assert network.listener.fileno() >= 0
        network.close()
