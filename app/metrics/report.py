"""Read the summary of a window: the same document for /v1/metrics, the page and `flask metrics summary`."""

from __future__ import annotations

from collections.abc import Mapping

from app.metrics.servers import servers
from app.metrics.store import Store
from app.metrics.summary import metrics_summary, overview
from app.metrics.window import Steps
from app.types import JsonDict, JsonObject, Observations, Policy


def read_summary(
    store: Store,
    policy: Policy,
    observations: Observations,
    workers: Mapping[str, JsonObject],
    hours: float,
    now_ms: int,
    step_s: int = 0,
) -> tuple[JsonDict, Steps]:
    """Return the summary of the last `hours` with the state that the workers report, and its live calls by steps of
    time (`step_s` 0: no steps).  Blocks.  Raises StoreError."""
    window = store.window(now_ms - int(hours * 3_600_000), step_s)
    extra = {
        **store.source().document(),
        **window.summed.document(),
        **overview(window.aggregates, policy, observations),
        "servers": servers(policy.backends, list(workers.values()), now_ms),
        "refusals": store.refusals(hours),
        "rows_dropped": store.dropped(),
    }
    return metrics_summary(window.aggregates, hours, extra), window.steps
