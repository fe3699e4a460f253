from __future__ import annotations

import pytest

from limpet.manifest.model import Facility
from limpet.provision.facilities import Standing, VolumeSupport, explain_missing_walls
from limpet.worker.sandbox import Wall

ALL = Standing(
    walls=frozenset(map(str, Wall)),
    unenforced={},
    volumes=VolumeSupport(volumes=True, encryption=True),
)


def test_every_facility_is_judged():
    assert ALL.facilities() == dict.fromkeys(Facility, True)
    assert ALL.available() == frozenset(Facility)
    assert ALL.missing_walls() == []


def test_nothing_is_promised_before_it_is_known():
    standing = Standing(walls=None, unenforced={})
    assert standing.available() == {Facility.CGROUP}
    assert standing.facilities()[Facility.SECCOMP] is None
    assert standing.facilities()[Facility.VOLUMES] is None
    assert standing.missing_walls() == []


@pytest.mark.parametrize("wall", Wall)
def test_each_wall_is_needed_by_some_facility(wall):
    standing = Standing(walls=frozenset(set(Wall) - {wall}), unenforced={})
    name = "namespaces" if wall is Wall.EMPTY_ROOT else str(wall)
    assert standing.missing_walls() == [name]


def test_one_limit_that_is_not_enforced_is_enough():
    assert Standing(walls=None, unenforced={"memory": "why"}).available() == set()


def test_why_walls_are_missing():
    assert explain_missing_walls([], is_root=False) == ""
    assert explain_missing_walls(["user"], is_root=False) == "the node does not run as root"
    assert explain_missing_walls(["user"], is_root=True).startswith("this kernel")
    assert explain_missing_walls(["landlock"], is_root=False).startswith("this kernel")
