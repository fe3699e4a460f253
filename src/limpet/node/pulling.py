"""An app's module, from wherever its source says: pulled, remembered, and judged by the signature policy.

The agent decides; processes that have nothing to lose (`limpet.registry.fetch`, `limpet.worker.verify`)
speak to registries and read what strangers signed. What a source turned out to be is remembered with the
signatures that came along, so that a node without a network needs neither again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING

from limpet.errors import DeniedError
from limpet.node.operator_files import MAX_KEYS_BYTES, SettingsFileError, read_operator_file
from limpet.node.tasks import RetryableError, memory_file, refusal, run_task
from limpet.plan import PlanError
from limpet.registry.evidence import MAX_EVIDENCE_BYTES, join_evidence
from limpet.registry.policy import Rule, Verdict, parse_policy
from limpet.registry.reference import name_place, name_source, parse_reference
from limpet.store.downloads import Downloads
from limpet.store.modules import MAX_MODULE_BYTES
from limpet.store.pulls import Pull
from limpet.worker.config import FetchConfig, write_config
from limpet.worker.messages import Fetched, Fetching

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from limpet.manifest.model import App, ModuleSource
    from limpet.node.verifying import Verifier
    from limpet.settings import RegistrySettings
    from limpet.store.modules import ModuleStore
    from limpet.store.pulls import Pulls
    from limpet.worker.messages import Verified
    from limpet.worker.supervisor import Zygotes

_FETCH_SECONDS = 3600.0
_MOST_FILE_BYTES = 1 << 20
# The registry answered, and would answer a reboot alike: what is here does not stand in for it.
_REFUSALS = frozenset({"ImageNotFound", "RegistryUnauthorized", "InvalidCredentials"})


class UnprovenError(DeniedError):
    """No signature that is here counts, and whether there are others can't be known now."""

    reason = "SignatureRefused"


class Step(StrEnum):
    """What imagePullPolicy means for a source, given what is here."""

    USE = "use what is here"
    ASK = "ask whether it is still what is here"
    FETCH = "fetch it"
    REFUSE = "refuse: it is not here and may not be fetched"


def decide_pull(policy: str, source: ModuleSource, *, is_here: bool) -> Step:
    """Kubernetes' imagePullPolicy; without one, what may move (`latest`, a URL) is asked for."""
    if not policy:
        is_moving = source.digest is None and (
            source.scheme == "https" or parse_reference(source.location).tag == "latest"
        )
        policy = "Always" if is_moving else "IfNotPresent"
    if policy == "Never":
        return Step.USE if is_here else Step.REFUSE
    if not is_here:
        return Step.FETCH
    # Content that is pinned can't have changed.
    return Step.ASK if policy == "Always" and source.digest is None else Step.USE


class Puller:
    """Pulls modules and judges them. `find_secret` gives a pull secret's text, None when there is none."""

    def __init__(
        self,
        settings: RegistrySettings,
        *,
        directory: Path,
        pulls: Pulls,
        store: ModuleStore,
        zygotes: Zygotes,
        verifier: Verifier,
        find_secret: Callable[[str, str], str | None],
    ) -> None:
        self._settings = settings
        self._policy = parse_policy(settings.policy)
        self._mirrors = parse_mirrors(settings.mirrors)
        self._downloads = Downloads(directory)
        self._pulls = pulls
        self._store = store
        self._zygotes = zygotes
        self._verifier = verifier
        self._find_secret = find_secret
        self._slots = asyncio.Semaphore(settings.parallel)
        self._locks: dict[str, asyncio.Lock] = {}

    def sweep(self, apps: Iterable[App]) -> None:
        """Remove unfinished downloads that no app is waiting for."""
        self._downloads.sweep(name_source(app.source) for app in apps)

    async def obtain(
        self, app: App, *, tell: Callable[[str, str, bool], None], show: Callable[[str], None]
    ) -> str:
        """Return the digest of the module that an app's source is now, having it on disk.

        `tell` makes an event (reason, message, is a warning), `show` says how far a download is. Raises
        `PlanError` when the source can't be used, `RetryableError` when it may be later.
        """
        name = name_source(app.source)
        self._rule(app.source)  # what is rejected is not fetched
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            pull = self._pulls.latest(name)
            step = decide_pull(app.pull_policy, app.source, is_here=pull is not None)
            if step is Step.REFUSE:
                raise _never_pulled(name)
            if step is Step.USE and pull is not None:
                tell("Pulled", f'Container image "{name}" already present on machine', False)
                return pull.module
            try:
                return await self._pull(app, name, pull, tell, show)
            except (RetryableError, SettingsFileError) as error:
                if pull is None or error.reason in _REFUSALS:
                    raise
                tell(
                    "PullSkipped",
                    f"can't ask for {name} ({error}); running what is here: {pull.module[:19]}",
                    True,
                )
                return pull.module

    async def restore(
        self,
        app: App,
        module: str,
        *,
        tell: Callable[[str, str, bool], None],
        show: Callable[[str], None],
    ) -> None:
        """Have a module on disk again that a release has and that was lost, whatever its source is now.

        Raises `PlanError` when the source no longer has it, otherwise as `obtain`.
        """
        name = name_source(app.source)
        self._rule(app.source)
        if app.pull_policy == "Never":
            raise _never_pulled(name)
        async with self._locks.setdefault(name, asyncio.Lock()):
            if self._store.has_module(module):
                return
            pull = self._pulls.of_module(name, module)
            manifest = pull.manifest if pull else ""
            at = module if app.source.scheme == "https" else manifest
            found = await self._pull(app, name, pull, tell, show, at=at)
        if found != module:
            raise PlanError(
                "ModuleLost",
                f"the node's copy of {module[:19]} was damaged, and {name} is {found[:19]} now: apply "
                "the app with the image that it is to run, or push what it was",
            )

    async def check(
        self,
        app: App,
        digest: str,
        *,
        tell: Callable[[str, str, bool], None],
    ) -> None:
        """Judge a module that is on disk by the policy as it is now, without a network if it can be.

        Raises `PlanError` when it may not run, `UnprovenError` when it may not for now, `RetryableError`
        when its signatures could not be had.
        """
        rule = self._rule(app.source)
        if rule.verdict is not Verdict.VERIFY:
            return
        name = name_source(app.source)
        keys = _read_keys(rule)
        pull = self._pulls.of_module(name, digest)
        verified = None
        if pull and pull.evidence:
            verified = await self._verify(pull, keys)
        if verified is None or not verified.signed_by:
            # Pulled before there was such a policy, or signed since.
            try:
                async with self._locks.setdefault(name, asyncio.Lock()):
                    fresh = await self._collect(app, name, pull, tell)
            except RetryableError as error:
                if verified is None:
                    raise
                raise UnprovenError(
                    f"{_unsigned(name, digest, rule, verified)} (its registry can't be asked for "
                    f"others: {error})"
                ) from error
            if fresh is not None:
                verified = await self._verify(fresh, keys)
        if verified is None or not verified.signed_by:
            raise PlanError(
                "SignatureRefused", _unsigned(name, digest, rule, verified), is_final=True
            )

    async def _collect(
        self,
        app: App,
        name: str,
        pull: Pull | None,
        tell: Callable[[str, str, bool], None],
    ) -> Pull | None:
        """Ask the registry for signatures of what is here; None when what it has is something else.

        A file of a layer that came some other way is taken out of the image anew: nobody else's word counts.
        """
        if pull is None or not pull.manifest:
            return None
        answer, evidence = await self._fetch(app, name, pull, tell, _show_nothing, at=pull.manifest)
        if answer.digest != pull.module:
            return None
        renewed = self._renewed(name, answer, evidence)
        self._pulls.amend(renewed)
        return renewed

    async def _verify(self, pull: Pull, keys: tuple[str, ...]) -> Verified:
        return await self._verifier.verify(
            pull.evidence, keys, module=pull.module, extracted_from=pull.extracted_from
        )

    def _rule(self, source: ModuleSource) -> Rule:
        """The policy's rule for a source. Raises `PlanError` when that is to reject it."""
        name = name_place(source)
        rule = self._policy.decide(name)
        if rule.verdict is Verdict.REJECT:
            raise PlanError(
                "ImageRejected",
                f"the policy rejects {name}: registry.policy says {rule.prefix}=reject",
                is_final=True,
            )
        if rule.verdict is Verdict.VERIFY and source.scheme != "oci":
            raise PlanError(
                "SignatureRefused",
                f"{name} can't be signed: registry.policy wants a key of {rule.keys} for {rule.prefix}, "
                "and signatures are kept in registries; push the module to one",
                is_final=True,
            )
        return rule

    async def _pull(
        self,
        app: App,
        name: str,
        pull: Pull | None,
        tell: Callable[[str, str, bool], None],
        show: Callable[[str], None],
        *,
        at: str = "",
    ) -> str:
        loop = asyncio.get_running_loop()
        tell("Pulling", f'Pulling image "{name}"', False)
        begun = loop.time()
        answer, evidence = await self._fetch(app, name, pull, tell, show, at=at)
        renewed = self._renewed(name, answer, evidence)
        if at and pull is not None and answer.digest == pull.module:
            self._pulls.amend(renewed)  # what its source is now is something else
        else:
            self._pulls.write(replace(renewed, pulled_at=0.0))
        size = self._store.module_bytes(answer.digest)
        tell(
            "Pulled",
            f'Successfully pulled image "{name}" in {loop.time() - begun:.1f}s. '
            f"Image size: {size} bytes.",
            False,
        )
        return answer.digest

    def _renewed(self, name: str, answer: Fetched, evidence: str) -> Pull:
        """What is known of a module's source by now: a registry that has no signatures takes none away."""
        known = self._pulls.of_module(name, answer.digest)
        known = known or Pull(source=name, module=answer.digest)
        return replace(
            known,
            manifest=answer.manifest,
            evidence=join_evidence(evidence, known.evidence),
            extracted_from=answer.extracted_from or known.extracted_from,
        )

    async def _fetch(
        self,
        app: App,
        name: str,
        pull: Pull | None,
        tell: Callable[[str, str, bool], None],
        show: Callable[[str], None],
        *,
        at: str = "",
    ) -> tuple[Fetched, str]:
        """Run a download; `at` asks for this manifest or module, whatever the source is now."""
        source = app.source
        config = FetchConfig(
            scheme=source.scheme,
            location=source.location,
            digest=at or source.digest,
            max_bytes=MAX_MODULE_BYTES,
            credentials=self._credentials(app, tell),
            authority=read_operator_file(
                self._settings.ca_file, "registry.ca_file", most_bytes=_MOST_FILE_BYTES
            ),
            endpoint=self._endpoint(source),
            known_manifest=pull.manifest if pull and self._store.has_module(pull.module) else "",
            known_module=pull.module if pull else "",
            extracted_from=pull.extracted_from if pull else "",
            wants_signatures=self._rule(source).verdict is Verdict.VERIFY,
            least_bytes_per_second=self._settings.least_bytes_per_second,
            most_bytes_per_second=max(
                1, self._settings.bytes_per_second // self._settings.parallel
            ),
        )

        def on_progress(message: Fetching) -> None:
            show(show_progress(message.done_bytes, message.total_bytes))

        async with self._slots:
            with contextlib.ExitStack() as opened:
                staged = self._store.create_module()  # raises when the disk is full
                abandoning = opened.enter_context(contextlib.ExitStack())
                abandoning.callback(staged.abandon)
                download = self._downloads.open(name)
                opened.callback(download.close)
                evidence = memory_file()
                opened.callback(os.close, evidence)
                answer = await run_task(
                    self._zygotes.default,
                    "fetch",
                    write_config(config),
                    [download.partial, download.notes, staged.descriptor, evidence],
                    seconds=_FETCH_SECONDS,
                    on_progress=on_progress,
                )
                if not isinstance(answer, Fetched):
                    raise refusal(answer, "FetchFailed", f"can't fetch {name}")
                if answer.where == "partial":
                    self._store.adopt(download, answer.digest)
                elif answer.where == "module":
                    abandoning.pop_all()
                    staged.finish_written(answer.digest)
                    download.discard()
                elif answer.digest != config.known_module or not config.known_module:
                    raise RetryableError("FetchFailed", f"{name}: its process spoke nonsense")
                text = os.pread(evidence, MAX_EVIDENCE_BYTES, 0)
                return answer, text.decode("ascii", "replace")

    def _endpoint(self, source: ModuleSource) -> str:
        host = parse_reference(source.location).host if source.scheme == "oci" else ""
        mirror = self._mirrors.get(host)
        return mirror or ""

    def _credentials(self, app: App, tell: Callable[[str, str, bool], None]) -> tuple[str, ...]:
        """The texts that may have credentials, the app's own first."""
        if app.source.scheme != "oci":
            return ()
        texts = []
        for secret in app.pull_secrets:
            text = self._find_secret(app.namespace, secret)
            if text is None:
                tell(
                    "FailedToRetrieveImagePullSecret",
                    f"there is no Secret {app.namespace}/{secret} of type "
                    "kubernetes.io/dockerconfigjson; the pull may not succeed without it",
                    True,
                )
            else:
                texts.append(text)
        own = read_operator_file(
            self._settings.credentials_file,
            "registry.credentials_file",
            most_bytes=_MOST_FILE_BYTES,
        )
        return (*texts, own) if own else tuple(texts)


def _never_pulled(name: str) -> PlanError:
    return PlanError(
        "ErrImageNeverPull",
        f"{name} is not on this node, and imagePullPolicy is Never; pull it once, or apply a "
        "bundle that has it",
    )


def _show_nothing(_progress: str) -> None:
    """Signatures are too small for it."""


def parse_mirrors(text: str) -> dict[str, str]:
    """The setting `registry.mirrors` as registry -> endpoint. Raises `PolicyError`."""
    from limpet.registry.policy import PolicyError
    from limpet.registry.reference import is_loopback, normalise_host, normalise_registry

    mirrors = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        host, equals, mirror = (part.strip() for part in item.partition("="))
        if not equals or not host or not mirror or "/" in mirror:
            raise PolicyError(
                f"registry.mirrors: {item!r} is not like docker.io=mirror.example:5000"
            )
        mirror = normalise_host(mirror)
        scheme = "http" if is_loopback(mirror) else "https"
        mirrors[normalise_registry(host)] = f"{scheme}://{mirror}"
    return mirrors


def show_progress(done_bytes: int, total_bytes: int) -> str:
    """How far a download is, for people."""
    if not total_bytes:
        return f"{done_bytes / (1 << 20):.1f} MiB"
    return f"{done_bytes / (1 << 20):.1f} of {total_bytes / (1 << 20):.1f} MiB"


def _read_keys(rule: Rule) -> tuple[str, ...]:
    """The keys of a rule. Raises `SettingsFileError`."""
    what = "registry.policy's keys"
    return (read_operator_file(rule.keys, what, most_bytes=MAX_KEYS_BYTES),)


def _unsigned(name: str, digest: str, rule: Rule, verified: Verified | None) -> str:
    count = verified.signatures if verified else 0
    keys = ", ".join(key[:16] for key in verified.keys) if verified else ""
    wanted = f"{rule.keys} (SHA-256 {keys})" if keys else rule.keys
    has = (
        f"it has {count} signature{'s' if count != 1 else ''} by other keys"
        if count
        else "it has none"
    )
    return (
        f"{name} ({digest[:19]}) may not run: registry.policy wants a signature by a key of {wanted} for "
        f"{rule.prefix}, and {has}; sign it with `limpet push --sign` or `cosign sign --key`"
    )
