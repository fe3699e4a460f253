"""Whose signature something has: asked of a process behind walls, remembered."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from limpet.node.tasks import memory_file, refusal, run_task
from limpet.worker.config import VerifyConfig, write_config
from limpet.worker.messages import Verified

if TYPE_CHECKING:
    from limpet.worker.supervisor import Zygotes

_VERIFY_SECONDS = 60.0
_KEPT_VERDICTS = 1000


class Verifier:
    """Judges evidence (`limpet.registry.evidence`), the same only once."""

    def __init__(self, zygotes: Zygotes) -> None:
        self._zygotes = zygotes
        self._verdicts: dict[bytes, Verified] = {}

    async def verify(
        self,
        evidence: str,
        keys: tuple[str, ...],
        *,
        module: str | None,
        extracted_from: str = "",
    ) -> Verified:
        """Say which of these keys (PEM) stands for a module, or without one has signed any payload.

        `extracted_from` is the image that this node itself took the module out of, if it did. Raises
        `PlanError` for keys that are none, `RetryableError` when there was no answer.
        """
        config = VerifyConfig(module=module, keys=keys, extracted_from=extracted_from)
        asked = hashlib.sha256(repr((evidence, config)).encode()).digest()
        known = self._verdicts.get(asked)
        if known is not None:
            return known
        descriptor = memory_file(evidence.encode())
        try:
            answer = await run_task(
                self._zygotes.default,
                "verify",
                write_config(config),
                [descriptor],
                seconds=_VERIFY_SECONDS,
            )
        finally:
            os.close(descriptor)
        if not isinstance(answer, Verified):
            raise refusal(answer, "VerifyFailed", "can't verify the signature")
        if len(self._verdicts) >= _KEPT_VERDICTS:
            self._verdicts.clear()
        self._verdicts[asked] = answer
        return answer
