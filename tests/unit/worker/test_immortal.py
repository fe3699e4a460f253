"""Immortal objects, each time in an interpreter of its own: there is no way back."""

import subprocess
import sys

import pytest

from limpet.worker.immortal import can_immortalise

needs_layout = pytest.mark.skipif(
    not can_immortalise(), reason="only CPython 3.12 and 3.13 have the layout that is known"
)

# A child looks at every object; what it had to copy is its private memory.
_MEASURE = """
import gc, os, sys
from limpet.worker.immortal import immortalise
import json.decoder, logging, dataclasses, typing, asyncio
data = [{"number": index, "text": str(index)} for index in range(20_000)]
gc.collect()
if sys.argv[1] == "immortal":
    assert immortalise() > 40_000
    assert immortalise() < 1_000
gc.freeze()
pid = os.fork()
if pid == 0:
    for each in data:
        number, text = each["number"], each["text"]
    for line in open("/proc/self/smaps_rollup"):
        if line.startswith("Private_Dirty"):
            os.write(1, line.split()[1].encode())
    os._exit(0)
os.waitpid(pid, 0)
"""


def run(program, *arguments):
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@needs_layout
def test_a_child_that_looks_at_everything_copies_little():
    mortal, immortal = (int(run(_MEASURE, kind)) for kind in ("mortal", "immortal"))
    assert immortal < mortal / 2


@needs_layout
def test_a_program_goes_on_as_before():
    program = """
import gc, json, weakref
from limpet.worker.immortal import immortalise
kept = {"list": [1, 2], "text": "a" * 1000}
class Thing: pass
immortalise()
kept["list"] += [3]
kept["text"] += "b"
del kept["list"][0]
thing = Thing(); gone = weakref.ref(thing); del thing
assert gone() is None, "what came later is freed as ever"
for _ in range(1000):
    json.loads(json.dumps(kept))
gc.collect()
print(kept["list"], len(kept["text"]))
"""
    assert run(program) == "[2, 3] 1001\n"


def test_where_the_layout_is_not_known_nothing_happens():
    program = """
import sys
from limpet.worker import immortal
sys.version_info = (3, 11, 0)
assert not immortal.can_immortalise()
print(immortal.immortalise())
"""
    assert run(program) == "0\n"
