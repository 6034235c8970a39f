"""The queue between requests and the database: recording is an append, writing happens elsewhere."""

from __future__ import annotations

import logging
from collections import deque

from app.metrics.store import Store
from app.storage import StoreError
from app.types import CallRecord

_BATCH = 500  # a row has over 30 columns, and SQLite takes 32,766 values a statement
log = logging.getLogger("llr.metrics")


class Recorder:
    """Keeps records until they are on disk.  A database that cannot be written costs memory, never a request."""

    def __init__(self, store: Store, most: int = 20_000) -> None:
        """`most` rows wait at the most; beyond that the oldest are dropped and counted."""
        self._store = store
        self._most = most
        self._queue: deque[CallRecord] = deque()
        self._dropped = 0  # not yet told to the database
        self._failing = False

    @property
    def queued(self) -> int:
        return len(self._queue)

    def record(self, call: CallRecord) -> None:
        self._queue.append(call)
        if len(self._queue) > self._most:
            self._queue.popleft()
            self._dropped += 1

    def flush(self) -> bool:
        """Writes what waits.  False when the database would not take it: it is kept for the next turn."""
        while self._queue or self._dropped:
            batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
            dropped, self._dropped = self._dropped, 0
            try:
                self._store.write(batch, dropped)
            except StoreError as error:
                self._queue.extendleft(reversed(batch))
                self._dropped += dropped
                if not self._failing:
                    log.error("metrics cannot be written and wait in memory: %s", error)
                self._failing = True
                return False
            except Exception:
                self._dropped += dropped + len(batch)  # not to be tried again: it would fail for ever
                raise
            if self._failing:
                log.info("metrics can be written again")
                self._failing = False
        return True
