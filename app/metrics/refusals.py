"""Count requests that were refused before any call, by code, for every ten minutes and for all time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import peewee

from app.metrics.rollup import ALL_TIME, BUCKET_S
from app.storage import portions
from app.storage.model import Refusals


def add_refusals(database: peewee.Database, refusals: Mapping[tuple[int, str], int]) -> None:
    """Add numbers of refused requests, by the begin of their ten minutes (Unix s) and by code."""
    numbers: Counter[tuple[int, int, str]] = Counter()
    for (begin, code), number in refusals.items():
        numbers[BUCKET_S, begin, code] += number
        numbers[*ALL_TIME, code] += number
    keys = (Refusals.span, Refusals.bucket, Refusals.code)
    for some in portions(sorted(numbers.items())):
        insert = Refusals.insert_many([(*key, number) for key, number in some], (*keys, Refusals.requests))
        added = {Refusals.requests: Refusals.requests + peewee.EXCLUDED.requests}
        insert.on_conflict(conflict_target=keys, update=added).execute(database)


def count_refusals(database: peewee.Database, since_s: int | None) -> dict[str, int]:
    """Return the number of refused requests by code, the most frequent code first: since then, to ten minutes, or of
    all time."""
    window = Refusals.span == 0
    if since_s is not None:
        window = (Refusals.span == BUCKET_S) & (Refusals.bucket > since_s - BUCKET_S)
    number = peewee.fn.SUM(Refusals.requests)
    query = Refusals.select(Refusals.code, number.alias("number")).group_by(Refusals.code)
    query = query.where(window).order_by(number.desc(), Refusals.code)
    return {code: int(count) for code, count in database.execute(query)}
