"""Trials in real children."""

from __future__ import annotations

import os
import signal

import pytest

from limpet.provision.trial import TrialError, run_trial


def test_the_answer_comes_back():
    assert run_trial(lambda: {"pid": os.getpid()})["pid"] != os.getpid()
    assert run_trial(lambda: "x" * 200_000) == "x" * 200_000


def test_what_it_does_to_itself_stays_there():
    before = os.getcwd()
    run_trial(lambda: os.chdir("/"))
    assert os.getcwd() == before


def test_an_exception_is_told():
    def fail():
        raise PermissionError(1, "Operation not permitted")

    with pytest.raises(TrialError, match=r"^Operation not permitted$"):
        run_trial(fail)
    with pytest.raises(TrialError, match="ValueError"):
        run_trial(lambda: (_ for _ in ()).throw(ValueError()))


def test_a_death_is_told():
    with pytest.raises(TrialError, match="killed by SIGSYS"):
        run_trial(lambda: os.kill(os.getpid(), signal.SIGSYS))
    with pytest.raises(TrialError, match="ended with code 3"):
        run_trial(lambda: os._exit(3))


def test_one_that_takes_too_long_is_killed_with_what_it_started():
    reader, writer = os.pipe()

    def hang():
        os.close(reader)
        os.fork()
        signal.pause()

    with pytest.raises(TrialError, match="no answer"):
        run_trial(hang, seconds=0.1)
    os.close(writer)
    assert os.read(reader, 1) == b""  # nobody is left who holds the other end
    os.close(reader)
