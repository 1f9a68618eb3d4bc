"""Model files looked at from time to time; a changed one is taken when it has stopped changing."""

from __future__ import annotations

import asyncio
import contextlib

from autotimm.runtime import ArtifactError
from autotimm.serving.hosting import HostedModel, HostedModels, Signature, signature_of
from autotimm.serving.inference_routes import reload_and_log
from autotimm.serving.request_errors import RequestError


async def watch(models: HostedModels, seconds: float) -> None:
    """Reload what changes, for ever.

    Args:
        models: whose files to look at.
        seconds: between two looks. A file is taken when two of them find the same change: it may be being copied.
    """
    seen: dict[HostedModel, Signature] = {}
    while True:
        await asyncio.sleep(seconds)
        for model in models:
            if not model.changed():
                seen.pop(model, None)
                continue
            with contextlib.suppress(ArtifactError, RequestError):  # gone again; or refused, which is in the log
                now = signature_of(model.source.path)
                if seen.get(model) == now:
                    await reload_and_log(model)
                seen[model] = now
