"""Circuits: which backends are left alone after failures.  Fed by CallRecords; one per worker process.

closed --3 failures in a row--> open for 10 s (doubling to 120 s) --time is up--> one trial call --ok--> closed
                                                                                               --failed--> open
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from app.errors import RouterExhausted
from app.types import CallRecord, CircuitState, Outcome

log = logging.getLogger("llr.health")

_FAILURES_TO_OPEN = 3
_LONGEST_S = 120.0
_RECOVERED_S = 10.0  # without a call that failed for want of something here


@dataclass(slots=True)
class _Circuit:
    failures: int = 0  # in a row
    kinds: Counter[str] = field(default_factory=Counter)  # of these failures
    unhealthy_since: float | None = None  # when it opened first; None = no open circuit was reported
    open_s: float = 0.0  # length of the last cool-down; 0 = closed
    until: float = 0.0  # end of the cool-down
    trial: str = ""  # request id of the one call after it, while that is on its way


class Health:
    """`admit()` before a call, `note()` after it, `snapshot()` for decisions."""

    def __init__(self, clock: Callable[[], float], first_s: float = 10.0) -> None:
        """`clock` gives monotonic seconds; `first_s` is the first cool-down."""
        self._clock = clock
        self._first_s = first_s
        self._circuits: dict[str, _Circuit] = {}
        self._exhausted_at: float | None = (
            None  # when a call last failed for want of something here; None = all is well
        )

    def snapshot(self) -> frozenset[str]:
        """Backends in cool-down, one whose trial call is on its way included."""
        now = self._clock()
        return frozenset(name for name, circuit in self._circuits.items() if _is_cooling(circuit, now))

    def states(self) -> dict[str, CircuitState]:
        """closed, open or half-open by backend, for the operator; a backend never called is absent."""
        now = self._clock()
        return {
            name: CircuitState.OPEN
            if now < circuit.until
            else CircuitState.HALF_OPEN
            if circuit.open_s
            else CircuitState.CLOSED
            for name, circuit in self._circuits.items()
        }

    def admit(self, backend: str, request_id: str) -> bool:
        """Whether a call may go to a backend now.  The first one after a cool-down is its trial."""
        circuit = self._circuits.get(backend)
        if circuit is None or not circuit.open_s:
            return True
        if _is_cooling(circuit, self._clock()):
            return False
        circuit.trial = request_id
        return True

    def answered(self, backend: str, request_id: str) -> None:
        """A stream has begun.  When it was the trial the circuit closes now, not at the stream's end; should the
        stream break, that one failure opens it again."""
        circuit = self._circuits.get(backend)
        if circuit is not None and circuit.trial == request_id:
            self._close(backend, circuit)
            circuit.failures, circuit.trial = _FAILURES_TO_OPEN - 1, ""

    def note(self, call: CallRecord) -> None:
        """Every finished call, whatever its kind, tells something about its backend."""
        circuit = self._circuits.setdefault(call.backend, _Circuit())
        was_trial = bool(circuit.trial) and circuit.trial == call.request_id
        if was_trial:
            circuit.trial = ""
        if call.outcome == Outcome.CANCELLED or call.error in ("busy", "privacy"):
            return
        if call.error in RouterExhausted.KINDS:
            self._note_exhausted(call.error)
            return
        self._note_recovered()
        if not call.backend_failed:
            self._close(call.backend, circuit)
            return
        circuit.failures += 1
        circuit.kinds[call.error or "error"] += 1
        now = self._clock()
        already_open = circuit.open_s > 0 and not was_trial  # a call that began before the cool-down
        if circuit.failures >= _FAILURES_TO_OPEN and not already_open:
            circuit.open_s = min(circuit.open_s * 2 or self._first_s, max(_LONGEST_S, self._first_s))
            circuit.until = now + circuit.open_s
        if call.retry_after_s:
            circuit.open_s = circuit.open_s or self._first_s
            circuit.until = max(circuit.until, now + call.retry_after_s)
        if circuit.open_s and not already_open:
            _report_open(call.backend, circuit, now)

    def _note_exhausted(self, kind: str | None) -> None:
        if self._exhausted_at is None:
            log.error("this machine has no %s left: calls fail, and no backend is to blame", kind)
        self._exhausted_at = self._clock()

    def _note_recovered(self) -> None:
        if self._exhausted_at is not None and self._clock() - self._exhausted_at > _RECOVERED_S:
            log.info("calls can be made again")
            self._exhausted_at = None

    def _close(self, backend: str, circuit: _Circuit) -> None:
        if circuit.unhealthy_since is not None:
            log.info("%s: answers again after %.0f s", backend, self._clock() - circuit.unhealthy_since)
        circuit.failures, circuit.open_s, circuit.until, circuit.unhealthy_since = 0, 0.0, 0.0, None
        circuit.kinds.clear()


def _report_open(backend: str, circuit: _Circuit, now: float) -> None:
    """Warn when a circuit opens.  When it opens again because its trial call failed the backend's state is the old one,
    and the line is no warning."""
    level = logging.INFO
    if circuit.unhealthy_since is None:
        level, circuit.unhealthy_since = logging.WARNING, now
    seconds = round(circuit.until - now, 1)
    kinds = ", ".join(f"{number} x {kind}" for kind, number in circuit.kinds.most_common())
    log.log(level, "%s: cooling down for %g s: %s", backend, seconds, kinds)


def _is_cooling(circuit: _Circuit, now: float) -> bool:
    return bool(circuit.open_s) and (now < circuit.until or bool(circuit.trial))
