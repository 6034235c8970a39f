"""Ask servers for their models and the facts about them, for the commands."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from app.backends import BACKEND_TYPES
from app.backends.base import Backend
from app.cli.checks import Discovery
from app.cli.common import TIMEOUTS
from app.errors import BackendError
from app.routing.locality import model_key
from app.types import BackendConfig, Wire

_THREADS = 16


def discover(configs: Iterable[BackendConfig], environ: Mapping[str, str]) -> dict[str, Discovery]:
    """Return the replies of all servers, which are asked in parallel, each for a few seconds at most."""
    backends = [
        BACKEND_TYPES[config.type](dataclasses.replace(config, timeouts=TIMEOUTS), environ) for config in configs
    ]
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        return {
            backend.config.name: reply for backend, reply in zip(backends, pool.map(_discover, backends), strict=True)
        }


def _discover(backend: Backend) -> Discovery:
    try:
        models = backend.discover()
        with contextlib.suppress(BackendError):  # not every version tells more
            backend.get_ready()
            backend.ask_for_facts()
        facts = backend.facts
        windows = {model: fact.window for model in models if (fact := facts.get(model_key(model))) and fact.window}
        return Discovery(
            models=models,
            windows=windows,
            facts=facts,
            residency=backend.residency,
            version=backend.version,
            speaks_native=Wire.OLLAMA in backend.wires,
            gives_logprobs=backend.gives_logprobs,
            model_hosts=backend.model_hosts,
        )
    except BackendError as error:
        return Discovery(error=error.message, kind=error.kind)
    finally:
        backend.close()
