"""Rows for the state file, and keys to encrypt it with."""

import random

from limpet.store.database import Completion, Event, StoredObject

KEY = b"k" * 32
OTHER = b"o" * 32
OBJECT = StoredObject(
    kind="Deployment",
    namespace="default",
    name="a",
    generation=1,
    created_at=1000.5,
    body='{"a":"\u00e9"}',
    digest=None,
)
COMPLETION = Completion(
    kind="Job",
    namespace="default",
    name="a",
    generation=2,
    reason="Error",
    message="exited with code 3",
    exit_code=3,
    finished_at=2000.25,
)


def event(message, **changes):
    values = {"time": 1.5, "type": "Normal", "reason": "R", "kind": "Pod", "namespace": "n"}
    return Event(**(values | {"name": "a", "message": message} | changes))


def noise(length, seed=0):
    """Return text that can be packed by a half at most."""
    return random.Random(seed).randbytes(length // 2).hex()
