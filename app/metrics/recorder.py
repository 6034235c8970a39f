"""Queue records between requests and the database: a request only appends, a worker thread writes."""

from __future__ import annotations

import logging
from collections import Counter, deque

from app.metrics.rollup import BUCKET_S
from app.metrics.store import Store
from app.storage import StoreError
from app.types import CallRecord

_BATCH = 500  # a row has over 30 columns, and SQLite takes 32,766 values a statement
log = logging.getLogger("llr.metrics")


class Recorder:
    """Keep records until they are written.  When the database cannot be written, memory grows, but no request fails."""

    def __init__(self, store: Store, most: int = 20_000, *, immediate: bool = False) -> None:
        """Hold up to `most` rows.  When there are more, drop and count the oldest.  `immediate`: nothing writes in the
        background, so each record is written as it comes."""
        self.immediate = immediate
        self._store = store
        self._most = most
        self._queue: deque[CallRecord] = deque()
        self._dropped = 0  # rows, not yet written to the database
        self._refused: deque[tuple[int, str]] = deque()  # (begin of ten minutes, Unix s; code) since the last flush
        self._refusals: Counter[tuple[int, str]] = Counter()  # the same, counted by `flush`, not yet written
        self._failing = False
        self._writing = 0  # rows that were taken from the queue and are not in the database yet

    @property
    def queued(self) -> int:
        """Return the rows that wait, and those that are being written now."""
        return len(self._queue) + self._writing

    def note(self, call: CallRecord) -> None:
        """Keep the record of a call until it is written."""
        self._queue.append(call)
        if len(self._queue) > self._most:
            self._queue.popleft()
            self._dropped += 1
        if self.immediate:
            self.flush()

    def refuse(self, code: str, now_ms: int) -> None:
        """Count a request that was refused before any call."""
        self._refused.append((now_ms // 1000 // BUCKET_S * BUCKET_S, code))
        if self.immediate:
            self.flush()

    def flush(self) -> bool:
        """Write the records that wait.  Return False when the database cannot be written: they stay in the queue."""
        self._count_refusals()
        while self._queue or self._dropped or self._refusals:
            self._writing = min(_BATCH, len(self._queue))
            batch = [self._queue.popleft() for _ in range(self._writing)]
            dropped, self._dropped = self._dropped, 0
            refusals, self._refusals = self._refusals, Counter()
            try:
                self._store.write(batch, dropped, refusals)
            except StoreError as error:
                self._queue.extendleft(reversed(batch))
                self._dropped += dropped
                self._refusals = refusals
                self.cannot_write(error)
                return False
            except Exception:
                self._dropped += dropped + len(batch)  # a second try would fail in the same way
                raise
            finally:
                self._writing = 0
            if self._failing:
                log.info("metrics can be written again")
                self._failing = False
        return True

    def cannot_write(self, error: StoreError) -> None:
        """Log once why the database cannot be written, until it can be written again."""
        if not self._failing:
            log.error("metrics cannot be written and wait in memory: %s. `flask doctor` prints the fix", error)
        self._failing = True

    def _count_refusals(self) -> None:
        """Count refusals.  The event loop may append others meanwhile: `popleft` and `append` are atomic."""
        while self._refused:
            self._refusals[self._refused.popleft()] += 1
