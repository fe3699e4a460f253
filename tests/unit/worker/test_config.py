import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.settings import HttpSettings
from limpet.worker.config import (
    CompileConfig,
    FetchConfig,
    RouterConfig,
    WorkerConfig,
    read_config,
    write_config,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
WORKERS = st.builds(
    WorkerConfig,
    app=TEXTS,
    worker=TEXTS,
    engine=TEXTS,
    trigger=st.sampled_from(["http", "command"]),
    memory_bytes=st.integers(0, 1 << 32),
    args=st.lists(TEXTS, max_size=3).map(tuple),
    env=st.lists(st.tuples(TEXTS, TEXTS), max_size=3).map(tuple),
    preopens=st.lists(st.tuples(TEXTS, st.booleans()), max_size=3).map(tuple),
    listeners=st.integers(0, 9),
    deadline_seconds=st.none() | st.floats(0, 1e6),
    path=TEXTS,
    methods=st.lists(TEXTS, max_size=3).map(tuple),
    queue=st.integers(0, 1000),
    idle_timeout_seconds=st.none() | st.floats(0, 1e6),
    passes_authorization=st.booleans(),
    http=st.dictionaries(TEXTS, st.floats(0, 1e6), max_size=3),
)


def round_trip(config):
    descriptor = write_config(config)
    try:
        return read_config(descriptor, type(config))
    finally:
        os.close(descriptor)


@given(
    WORKERS
    | st.builds(CompileConfig, engine=TEXTS)
    | st.builds(
        FetchConfig,
        scheme=TEXTS,
        location=TEXTS,
        digest=st.none() | TEXTS,
        max_bytes=st.integers(0, 1 << 40),
    )
    | st.builds(RouterConfig, listeners=st.integers(0, 9), http=st.just({"connections": 3}))
)
def test_a_configuration_comes_out_as_it_went_in(config):
    assert round_trip(config) == config


@pytest.fixture
def descriptor():
    descriptor = write_config(FetchConfig(scheme="https", location="x", digest=None, max_bytes=1))
    yield descriptor
    os.close(descriptor)


def test_a_configuration_can_not_be_changed(descriptor):
    with pytest.raises(PermissionError):
        os.pwrite(descriptor, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 1 << 20)
    again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
    with pytest.raises(PermissionError):
        os.write(again, b"x")
    os.close(again)


def test_a_configuration_is_not_inherited_and_can_be_read_twice(descriptor):
    assert not os.get_inheritable(descriptor)
    assert read_config(descriptor, FetchConfig) == read_config(descriptor, FetchConfig)


def test_what_may_be_secret_is_not_shown():
    config = WorkerConfig(
        app="a",
        worker="a",
        engine="e",
        trigger="http",
        memory_bytes=1,
        args=(),
        env=(("PASSWORD", "hunter2"),),
    )
    assert "hunter2" not in repr(config)


def test_the_operator_s_http_settings_keep_their_types():
    config = WorkerConfig(
        app="a",
        worker="a",
        engine="e",
        trigger="http",
        memory_bytes=1,
        args=(),
        env=(),
        http={"connections": 5.0, "keep_alive_seconds": 2},
    )
    settings = round_trip(config).http_settings()
    assert settings == HttpSettings(connections=5, keep_alive_seconds=2.0)
    assert type(settings.connections) is int
