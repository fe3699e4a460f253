"""What the node was told and has acknowledged, and what is in doubt because no answer came. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

Key: TypeAlias = tuple[str, str]  # kind and name
Body: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class AppSpec:
    """An app of the storm: `form` is what it is like (`storm_apps`), `guest` what it runs."""

    name: str
    version: int
    replicas: int = 1
    form: str = "good"
    salt: int = 0  # another module, to be compiled, for every number
    image: str = ""  # where its module comes from; without one it is uploaded
    is_paused: bool = False


@dataclass
class Desired:
    """Every object, by what it may be now: one body, or several while a change is in doubt."""

    objects: dict[Key, list[Body | None]] = field(default_factory=dict)
    specs: dict[str, list[AppSpec | None]] = field(default_factory=dict)

    def acknowledge(self, changes: dict[Key, Body | None]) -> None:
        """The node has said that these are so now."""
        for key, body in changes.items():
            self.objects[key] = [body]

    def doubt(self, changes: dict[Key, Body | None]) -> None:
        """Nobody knows whether these became so; all of them did, or none."""
        for key, body in changes.items():
            self.objects.setdefault(key, [None]).append(body)

    def note(self, spec: AppSpec | None, name: str, *, is_certain: bool) -> None:
        """Remember what an app's object means."""
        self.specs[name] = [spec] if is_certain else [*self.specs.get(name, [None]), spec]

    def settle(self, actual: dict[Key, Body]) -> list[str]:
        """Compare with what the node shows and leave no doubt; return what is wrong."""
        wrong = []
        for key, allowed in self.objects.items():
            found = _without_false(actual.get(key))
            allowed = [_without_false(body) for body in allowed]
            if found not in allowed:
                wrong.append(f"{key} is {found}, not one of {allowed}")
            elif len(allowed) > 1:
                # The same body may have been asked for twice: the last one means the same.
                self._settle_spec(key[1], allowed.index(found))
            self.objects[key] = [found]
        wrong += [
            f"{key} is there, and nobody asked for it"
            for key in actual.keys() - self.objects.keys()
        ]
        return wrong

    def _settle_spec(self, name: str, which: int) -> None:
        specs = self.specs.get(name)
        if specs is not None and len(specs) > 1:
            self.specs[name] = [specs[which]]

    def apps(self) -> dict[str, AppSpec]:
        """Return the apps that are wanted, once there is no doubt."""
        return {name: found[0] for name, found in self.specs.items() if found[0] is not None}


def _without_false(body: Body | None) -> Body | None:
    """Return an object as it is written that a rollout is not paused: by saying nothing."""
    if body is None or body.get("spec", {}).get("paused") is not False:
        return body
    return body | {
        "spec": {name: value for name, value in body["spec"].items() if name != "paused"}
    }
