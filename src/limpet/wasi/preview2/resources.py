"""What a component holds of the host: numbers on its side, objects on ours."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

from limpet.wasi.endings import GuestTrap

# Pollables, streams, errors and the rest together. Each costs the engine and us a few hundred bytes.
MAX_RESOURCES = 16 * 1024


class Resource:
    """What stands behind one handle. `close` is called once, when the guest drops it or is over."""

    __slots__ = ()

    def close(self) -> None:
        return


class _Closable(Protocol):
    def close(self) -> None: ...


class Shared:
    """Something to close when its last user is gone, in whatever order they go."""

    __slots__ = ("_of", "_users")

    def __init__(self, of: _Closable) -> None:
        self._of = of
        self._users = 0

    def retain(self) -> None:
        self._users += 1

    def release(self) -> None:
        self._users -= 1
        if not self._users:
            self._of.close()


class ResourceTable:
    """One per run. The engine vouches that a number comes back only while its handle lives."""

    __slots__ = ("_free", "_objects")

    def __init__(self) -> None:
        self._objects: dict[int, Resource] = {}
        self._free: list[int] = []

    def add(self, resource: Resource) -> int:
        """The number for a resource that the guest is about to own."""
        if len(self._objects) >= MAX_RESOURCES:
            resource.close()
            raise GuestTrap(f"holds more than {MAX_RESOURCES} resources at once")
        number = self._free.pop() if self._free else len(self._objects) + 1
        self._objects[number] = resource
        return number

    def get(self, number: int) -> Resource:
        return self._objects[number]

    def drop(self, number: int) -> None:
        """The guest dropped its handle."""
        resource = self._objects.pop(number)
        self._free.append(number)
        resource.close()

    def close_all(self) -> None:
        for resource in self._objects.values():
            # The guest is gone: nobody is left to tell of a late error.
            with suppress(OSError):
                resource.close()
        self._objects.clear()
        self._free.clear()
