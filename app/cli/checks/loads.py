"""Find the loads of models in the calls of the last hour.  Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from app.metrics.queries import TimedPart


@dataclass(frozen=True, slots=True)
class Load:
    """Represent one load of a model, for which one call or several calls waited."""

    backend: str
    model: str
    took_ms: int
    idle_ms: int | None = None  # since the end of the model's last call before it; None = the hour has no such call
    others: frozenset[str] = frozenset()  # models of the backend that were called since then


def loads(calls: Iterable[TimedPart]) -> list[Load]:
    """Return the loads that calls waited for, by backend and time."""
    by_backend: dict[str, list[TimedPart]] = defaultdict(list)
    for call in calls:
        by_backend[call.backend].append(call)
    return [load for some in by_backend.values() for load in _loads(sorted(some, key=lambda call: call.begin_ms))]


def _loads(calls: Sequence[TimedPart]) -> Iterator[Load]:
    """Yield the loads of one backend; `calls` are in the order of their begin."""
    last: dict[str, int] = {}  # model -> place of its latest call
    end_ms: dict[str, int] = {}  # model -> end of its calls so far, Unix time
    loaded_ms: dict[str, int] = {}  # model -> end of its latest load
    for number, call in enumerate(calls):
        model, begin_ms = call.model, call.load_begin_ms
        if call.load_ms and begin_ms >= loaded_ms.get(model, 0):  # else an earlier call waited for the same load
            if model in last:
                others = frozenset(other.model for other in calls[last[model] + 1 : number])
                yield Load(call.backend, model, call.load_ms, max(0, begin_ms - end_ms[model]), others)
            else:
                yield Load(call.backend, model, call.load_ms)
        if call.load_ms:
            loaded_ms[model] = max(loaded_ms.get(model, 0), begin_ms + call.load_ms)
        last[model], end_ms[model] = number, max(end_ms.get(model, 0), call.ts)
