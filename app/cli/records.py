"""Read the database for `flask doctor`: the calls of the last hour and day, and the reports of the workers."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from app.beliefs.medians import Medians
from app.cli.report import store_to_read
from app.metrics.aggregates import Aggregate, Key
from app.metrics.queries import CallGroup, TimedPart
from app.metrics.store import Store
from app.services import WORKER_STALE_MS
from app.storage import StoreError, now_ms
from app.types import JsonObject, Timings

_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
_ROOM_BYTES = 1_000_000  # free space that a batch of rows may need


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    problem: str = ""  # why the database cannot be used; "" = it can
    is_missing: bool = False
    newest_ms: int | None = None  # Unix time of the newest row
    timings: Timings = field(default_factory=Timings)
    calls: Sequence[CallGroup] = ()
    timed: Sequence[TimedPart] = ()
    last_day: Mapping[Key, Aggregate] = field(default_factory=dict)
    refusals: Mapping[str, int] = field(default_factory=dict)
    workers: Mapping[str, JsonObject] = field(default_factory=dict)  # name -> report


def read(location: str) -> Records:
    """Read the database at `location`.  Creates none, because it would belong to the user of `flask doctor`."""
    store = store_to_read(location)
    folder = Path(location).absolute().parent
    if not store.exists():
        problem = "" if os.access(folder, os.W_OK) else f"{location}: unable to open database file"
        return Records(problem=problem, is_missing=True)
    is_full = "://" not in location and shutil.disk_usage(folder).free < _ROOM_BYTES
    problem = f"{location}: disk is full" if is_full else _write_problem(store)
    try:
        return replace(_last_hour(store), problem=problem)
    except StoreError as error:
        return Records(problem=problem or str(error))


def _write_problem(store: Store) -> str:
    try:
        store.check_writable()
    except StoreError as error:
        return str(error)
    return ""


def _last_hour(store: Store) -> Records:
    medians, now = Medians(), now_ms()
    medians.read(store.calls_after(0, now - _HOUR_MS)[1])
    return Records(
        newest_ms=store.source().newest_ms,
        timings=medians.current(now),
        calls=store.groups(now - _HOUR_MS),
        timed=store.timed_parts(now - _HOUR_MS),
        last_day=store.window(now - _DAY_MS).aggregates,
        refusals=store.refusals(_HOUR_MS / 3_600_000),
        workers=store.workers(now, WORKER_STALE_MS),
    )


def open_circuits(workers: Mapping[str, JsonObject]) -> Mapping[str, int]:
    """Return the number of workers in which the circuit of each backend is open."""
    numbers = Counter[str]()
    for report in workers.values():
        numbers.update(report.get("circuit_open", {}))
    return numbers
