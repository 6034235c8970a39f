"""Tell which targets are slow for their routes: warm calls exceed the latency budget.

A flag is set above SLOW_ABOVE times the budget and cleared below SLOW_BELOW.  It depends only on the rows of the
database, in the order of their ids, so it is the same in every worker.
"""

from __future__ import annotations

import statistics
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from app.types import SLOW_ABOVE, SLOW_BELOW, Policy

LATEST = 9  # calls of a median: enough to be stable, few enough to follow a change within seconds
ENOUGH = 5
OLDEST_MS = 3_600_000
_MOST_MODELS = 500  # clients can name any model

Model = tuple[str, str]  # backend, model
Budgets = Mapping[str, Sequence[tuple[str, float]]]  # backend -> (route, its budget in ms)


def budgets_of(policy: Policy) -> Budgets:
    """Return the budgets of the routes of each backend, also as a member of a pool."""
    budgets: dict[str, list[tuple[str, float]]] = {}
    for route in policy.routes:
        if route.latency_budget_ms is None:
            continue
        names = (member for name in (route.backend, *route.fallbacks) for member in policy.members(name))
        for backend in dict.fromkeys(names):
            budgets.setdefault(backend, []).append((route.label, route.latency_budget_ms))
    return budgets


@dataclass(slots=True)
class _Target:
    calls: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=LATEST))  # ts_ms, warm ms
    flags: dict[str, tuple[bool, int]] = field(
        default_factory=dict
    )  # route -> slow, ts_ms of the last call that said so


class SlowFlags:
    """Fold the rows of calls into a flag for each route and target."""

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets
        self._targets: OrderedDict[Model, _Target] = OrderedDict()
        self._last_row = 0

    def read(self, row_id: int, ts_ms: int, model: Model, warm_ms: float) -> None:
        """Add the next row."""
        budgets = self._budgets.get(model[0])
        if budgets is None or row_id <= self._last_row:
            return
        self._last_row = row_id
        target = self._targets.setdefault(model, _Target())
        self._targets.move_to_end(model)
        if len(self._targets) > _MOST_MODELS:
            self._targets.popitem(last=False)
        target.calls.append((ts_ms, warm_ms))
        recent = [ms for at_ms, ms in target.calls if abs(ts_ms - at_ms) < OLDEST_MS]
        if len(recent) < ENOUGH:
            return
        median = statistics.median(recent)
        for route, budget_ms in budgets:
            if median > SLOW_ABOVE * budget_ms or median < SLOW_BELOW * budget_ms:
                target.flags[route] = median > budget_ms, ts_ms

    def current(self, now_ms: int) -> Iterator[tuple[tuple[str, str, str], bool]]:
        """Yield (route, backend, model) and the flag, for the flags that a call of the last hour has confirmed: a new
        worker knows no others."""
        for model, target in self._targets.items():
            for route, (is_slow, ts_ms) in target.flags.items():
                if abs(now_ms - ts_ms) < OLDEST_MS:
                    yield (route, *model), is_slow
