"""What a forked process does: take its role, its descriptors and its configuration, and never return.

Roles: `app` runs one app; `spare` is an `app` that goes through the motions of a first request while it
waits: what that touches becomes its own copy of the zygote's memory, which is most of what a cold start
would spend its time on. `compile` turns a module into an artifact, `fetch` downloads one, `verify` judges
signatures, `manifests` makes objects of YAML, `router` is the ingress. Each raises its walls
(`limpet.worker.sandbox`) around the moment when it is assigned its work: a configuration and the role's own
descriptors.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING, NoReturn

from limpet.engine.protocol import CompileOptions, ModuleError
from limpet.errors import LimpetError
from limpet.linux.landlock import Access
from limpet.linux.memory import set_oom_score
from limpet.linux.process import set_process_name
from limpet.worker.app import AppWorker
from limpet.worker.config import (
    CompileConfig,
    FetchConfig,
    ManifestsConfig,
    RouterConfig,
    VerifyConfig,
    WorkerConfig,
    read_config,
)
from limpet.worker.messages import (
    Assign,
    Compiled,
    Failed,
    Spawn,
)
from limpet.worker.sandbox import Sandbox, role_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from limpet.engine.protocol import Engine
    from limpet.worker.channel import Channel
    from limpet.worker.rehearsal import Rehearsal
    from limpet.worker.sandbox import Wall

_MAX_EXIT_CODE = 255
_ORPHAN_SECONDS = 5.0
# How readily the kernel kills a process when memory runs out (proc(5), oom_score_adj): what is done again
# first, then apps, long before the node. Behind its walls a process has no /proc to change it in.
_OOM_SCORES = {"compile": 800, "fetch": 800, "router": 100}
_APP_OOM_SCORE = 500
_INTERNAL_FAILURE = 70  # EX_SOFTWARE of sysexits.h


def run_child(
    spawn: Spawn,
    channel: Channel,
    engine: Engine,
    rehearsal: Rehearsal,
    walls: frozenset[Wall],
) -> NoReturn:
    """Do the role's work and exit. A defect ends up in the app's log, never in the zygote."""
    code = _INTERNAL_FAILURE
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        set_oom_score(_OOM_SCORES.get(spawn.role, _APP_OOM_SCORE))
        code = _run_role(spawn, channel, engine, rehearsal, Sandbox(walls, spawn.uid))
    except BrokenPipeError:
        code = 1  # the agent has gone, and nobody else waits for what this was to say
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _run_role(
    spawn: Spawn, channel: Channel, engine: Engine, rehearsal: Rehearsal, sandbox: Sandbox
) -> int:
    """Retire, wait for the work, seal, do it."""
    name = "app" if spawn.role == "spare" else spawn.role
    role = role_of(name, engine.name)
    set_process_name("limpet-ingress" if name == "router" else f"limpet-{spawn.role}")
    grants: list[tuple[int, Access]] = []
    task = _import_task(name, channel)
    if name == "fetch":
        from limpet.registry.fetch import equip, fetch_module

        equipment = equip()
        grants = [(directory, Access.READ) for directory in equipment.directories]
    elif name == "router":
        from limpet.ingress.router import allow_descriptors, run_router

        allow_descriptors()
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    sandbox.retire(role)
    if role.scratch_bytes:
        grants.append((_open_scratch(sandbox), Access.WRITE))
    if spawn.role == "spare":
        rehearsal.run()
    received = channel.receive()
    started_at = time.monotonic()
    if received is None or not isinstance(received[0], Assign):
        return 0
    config, *descriptors = received[1]
    if name == "app":
        settings = read_config(config, WorkerConfig)
        os.close(config)
        app = AppWorker(channel, settings, descriptors, engine, started_at, null)
        sandbox.seal(role, app.grants())
        return app.run()
    sandbox.seal(role, grants)
    if name == "compile":
        return _compile(channel, read_config(config, CompileConfig), descriptors, engine)
    if name == "fetch":
        return fetch_module(channel, read_config(config, FetchConfig), descriptors, equipment)
    if task is not None:
        return task(config, descriptors)
    return run_router(channel, read_config(config, RouterConfig), descriptors)


def _import_task(name: str, channel: Channel) -> Callable[[int, list[int]], int] | None:
    """Import, while files can be read, what needs nothing but its configuration and descriptors."""
    if name == "manifests":
        from limpet.worker.manifests import parse_manifests

        return lambda config, descriptors: parse_manifests(
            read_config(config, ManifestsConfig), descriptors
        )
    if name == "verify":
        from limpet.worker.verify import verify_evidence

        return lambda config, descriptors: verify_evidence(
            channel, read_config(config, VerifyConfig), descriptors[0]
        )
    return None


def _open_scratch(sandbox: Sandbox) -> int:
    """The directory where temporary files are to go: the root, which is this process's own."""
    path = "/" if sandbox.has_own_root else os.environ.get("TMPDIR", "/tmp")  # noqa: S108 - shared
    os.environ["TMPDIR"] = path
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _compile(
    channel: Channel, config: CompileConfig, descriptors: list[int], engine: Engine
) -> int:
    module_file, artifact_file = descriptors
    module = os.pread(module_file, os.fstat(module_file).st_size, 0)
    digest = f"sha256:{hashlib.sha256(module).hexdigest()}"
    if digest != config.digest:
        text = f"the stored module is {digest}, not {config.digest}"
        channel.send(Failed("DigestMismatch", text, False))
        return 1
    try:
        artifact, info = engine.compile_module(
            module, CompileOptions(config.is_metered, config.is_interpreted)
        )
        view = memoryview(artifact)
        while view:
            view = view[os.write(artifact_file, view) :]
        os.fsync(artifact_file)
    except ModuleError as error:
        channel.send(Failed("InvalidModule", str(error), False))
        return 1
    except LimpetError as error:
        channel.send(Failed(error.reason, str(error), error.is_retryable))
        return 1
    except OSError as error:
        channel.send(Failed("ArtifactNotWritten", f"can't write the artifact: {error}", True))
        return 1
    channel.send(Compiled(info.imports[:256], info.exports[:256], info.memory_bytes))
    return 0
