"""The agent's part in an upgrade: it begins one, or is on trial and judges itself, or mends after one.

Which of these is decided when the agent starts, by the record of the last upgrade and what the launcher says.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from limpet import __version__
from limpet.errors import ConflictError, LimpetError, TemporaryError, UnavailableError
from limpet.node.saying import say, say_problem
from limpet.node.state import WorkerState
from limpet.upgrade.layout import HANDOVER, running_prefix
from limpet.upgrade.record import Record, read_record, write_record
from limpet.worker.messages import ConfirmVersion, RefuseVersion, TryVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from limpet.node.apps import AppRuntime
    from limpet.plan import AppKey
    from limpet.settings import Settings
    from limpet.store.database import Database
    from limpet.upgrade.layout import Prefix
    from limpet.worker.messages import Message
    from limpet.worker.supervisor import Zygotes

_LOOK_SECONDS = 0.1
# The answer to whoever asked for the upgrade leaves before its process does.
_ANSWER_SECONDS = 0.2
_API_SECONDS = 10.0
_INTERRUPTED = "the node was stopped or lost power before it was known to be healthy"


class TrialError(TemporaryError):
    """A change while a version of Limpet is on trial: going back could lose it."""

    reason = "UpgradeOnTrial"


class Upgrades:
    """One agent's view of upgrades. `tell` sends to the launcher, `flush` writes what waits."""

    def __init__(
        self,
        settings: Settings,
        *,
        database: Database,
        apps: Mapping[AppKey, AppRuntime],
        zygotes: Zygotes,
        record: Callable[[str, str, bool], None],
        flush: Callable[[], None],
        is_on_trial: bool,
        failure: str | None,
        tell: Callable[[Message], None],
        on_over: Callable[[], None],
    ) -> None:
        self._directory = settings.node.data_directory
        self._socket_path = settings.node.socket_path
        self._settings = settings.upgrade
        self._database = database
        self._apps = apps
        self._zygotes = zygotes
        self._tell_event = record
        self._flush = flush
        self._failure = failure
        self._tell = tell
        self._on_over = on_over
        self._record: Record | None = None
        self._prefix: Prefix | None = None
        self._task: asyncio.Task[None] | None = None
        self.is_on_trial = is_on_trial
        self._is_leaving = False

    @property
    def is_undecided(self) -> bool:
        """Whether a version is on trial or about to be: nothing may be changed."""
        return self.is_on_trial or self._is_leaving

    def open(self) -> None:
        """Find out where the last upgrade stands, before the state is opened. Raises `UnavailableError`."""
        self._record = record = read_record(self._directory)
        self._prefix = running_prefix()
        if self.is_on_trial and (
            record is None or record.state != "trial" or record.version != __version__
        ):
            raise UnavailableError(f"version {__version__} is on trial, but no record says so")
        # Nothing was acknowledged since a version on trial took the step to its schema.
        self._database.may_go_back = self._has_failed

    @property
    def _has_failed(self) -> bool:
        record = self._record
        return (
            not self.is_on_trial
            and record is not None
            and record.state == "trial"
            and record.version != __version__
        )

    def begin(self) -> None:
        """Go on with where it stands, now that the API listens."""
        record = self._record
        if self.is_on_trial:
            self._task = asyncio.get_running_loop().create_task(self._judge(), name="trial")
        elif record is not None and record.state == "trial":
            if self._has_failed:
                self._mend(record)
            else:  # the power went between the switch and the record of it
                self._complete(record)

    def stop(self) -> None:
        """Judge no more."""
        if self._task is not None:
            self._task.cancel()

    def check_changes(self) -> None:
        """Refuse a change while it could be lost. Raises `TrialError`."""
        if self.is_undecided:
            raise TrialError(
                "another version of Limpet is being tried, and nothing can be changed meanwhile; "
                f"try again in {self._settings.trial_seconds:g} s at most (`limpet upgrade --status`)"
            )

    def describe(self) -> dict[str, object]:
        """Return what people may know: versions, and the last upgrade."""
        prefix, record = self._prefix, self._record
        return {
            "version": __version__,
            "prefix": str(prefix.path) if prefix is not None else None,
            "is_undecided": self.is_undecided,
            "trial_seconds": self._settings.trial_seconds,
            "last": asdict(record) if record is not None else None,
        }

    # The version before

    def start(self, version: str) -> None:
        """Have another version tried. Raises LimpetError, OSError; then nothing has happened."""
        self.check_changes()
        if self._prefix is None:
            raise UnavailableError(
                f"this node runs from {sys.prefix}, where no versions lie side by side; "
                "docs/upgrade.md says how to move it: `limpet upgrade SOURCE --prefix /opt/limpet`, then "
                "start /opt/limpet/current/bin/limpet up"
            )
        if version == __version__:
            raise ConflictError(f"version {version} is what runs")
        installed = self._prefix.require(version)
        if installed.handover != HANDOVER:
            raise ConflictError(
                f"version {version} can't take over from {__version__} while apps run "
                f"(handover {installed.handover}, not {HANDOVER}); its release notes say how to get there"
            )
        self._flush()
        record = Record(
            state="trial",
            version=version,
            previous=__version__,
            started_at=time.time(),
            ready=tuple(str(key) for key, each in self._apps.items() if _is_ready(each)),
        )
        write_record(self._directory, record)
        self._is_leaving = True
        self._record = record
        python = str(self._prefix.python(version))
        asyncio.get_running_loop().call_later(
            _ANSWER_SECONDS, lambda: self._tell(TryVersion(python))
        )
        self._announce("UpgradeStarted", f"version {version} is tried; {__version__} is what runs")

    def _mend(self, record: Record) -> None:
        """Be the version that stays, after another has failed."""
        reason = self._failure or _INTERRUPTED
        if self._prefix is not None:
            try:
                self._prefix.switch(__version__)
            except (LimpetError, OSError) as error:
                reason += f"; and {self._prefix.path} can't be changed: {error}"
        if self._database.went_back:
            reason += f"; {self._database.went_back}"
        message = f"version {record.version} was tried and is not used: {reason}"
        self._announce("UpgradeFailed", message, is_warning=True)
        try:
            self._end(replace(record, state="failed", reason=reason))
        except OSError as error:  # a full disk: the next start says it again
            say_problem(f"warning: can't remember how the upgrade ended: {error}")

    # The version on trial

    async def _judge(self) -> None:
        """Wait until this version is healthy, for as long as it has; then stay, or say why not."""
        record, prefix = self._record, self._prefix
        assert record is not None, "open() has refused that"
        try:
            async with asyncio.timeout(self._settings.trial_seconds):
                await self._wait_healthy(record)
            if prefix is not None:
                prefix.switch(__version__)
            self._complete(record)
        except TimeoutError:
            why = self._missing(record) or "it was not healthy for long enough"
            self._tell(RefuseVersion(f"after {self._settings.trial_seconds:g} s {why}"))
            return
        except (LimpetError, OSError, ValueError) as error:
            self._tell(RefuseVersion(str(error)))
            return
        self._tell(ConfirmVersion())
        self.is_on_trial = False
        self._on_over()

    async def _wait_healthy(self, record: Record) -> None:
        since: float | None = None
        while since is None or time.monotonic() - since < self._settings.stable_seconds:
            if self._missing(record):
                since = None
            elif since is None:
                await ask_api(self._socket_path)
                since = time.monotonic()
            await asyncio.sleep(_LOOK_SECONDS)

    def _missing(self, record: Record) -> str:
        """Return what is not as healthy as it was; empty when all is."""
        zygote = self._zygotes.default
        if not zygote.engine_name:
            return "there is no engine"
        zygote.keep_spare(is_wanted=True)  # can it start a worker? It ends when nothing needs it
        if not zygote.has_forked_spare:
            return "no worker can be started"
        by_name = {str(key): runtime for key, runtime in self._apps.items()}
        late = [name for name in record.ready if not _is_ready(by_name.get(name))]
        return f"{', '.join(late)} was ready before and is not now" if late else ""

    # Both

    def _complete(self, record: Record) -> None:
        self._announce(
            "UpgradeComplete", f"version {__version__} runs; before it was {record.previous}"
        )
        self._end(replace(record, state="complete"))

    def _end(self, record: Record) -> None:
        record = replace(record, ended_at=time.time())
        write_record(self._directory, record)
        self._record = record

    def _announce(self, reason: str, message: str, *, is_warning: bool = False) -> None:
        self._tell_event(reason, message, is_warning)
        say(f"limpet {__version__}: {message}")
        self._flush()


def _is_ready(runtime: AppRuntime | None) -> bool:
    """Whether an app serves, would be started by its next client, or has come to its end."""
    if runtime is None:
        return False
    if runtime.is_stopped_until_asked or runtime.is_over:
        return True
    return any(worker.state is WorkerState.READY for worker in runtime.workers.values())


async def ask_api(path: Path) -> None:
    """See that the node's own API answers. Raises OSError, ValueError, TimeoutError."""
    async with asyncio.timeout(_API_SECONDS):
        reader, writer = await asyncio.open_unix_connection(str(path))
        try:
            writer.write(b"GET /v1/node HTTP/1.1\r\nHost: limpet\r\nConnection: close\r\n\r\n")
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 ") or json.loads(body)["version"] != __version__:
                raise ValueError("the API of the version on trial does not answer")
        finally:
            writer.close()
