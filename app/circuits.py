"""Count the failures of backends, and open a circuit for an unhealthy one.  It reads CallRecords; each worker has
its own.  A server that asks for no calls for a while is busy until then, and not unhealthy.

closed --3 failures in a row--> open for 10 s (doubling to 120 s) --time is up--> half-open: one trial call
half-open --the trial call succeeds--> closed      half-open --it fails--> open
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from app.errors import RouterExhausted
from app.types import CallRecord, CircuitState, Ending, Outcome

log = logging.getLogger("llr.health")

_FAILURES_TO_OPEN = 3
_LONGEST_S = 120.0
_RECOVERED_S = 10.0  # without a call that failed because this machine lacked a resource
_NOT_SENT = ("busy", "privacy", "untranslatable", "not_loaded")  # errors of calls that were not sent
_NONE: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Circuit:
    failures: int = 0  # in a row
    kinds: Counter[str] = field(default_factory=Counter)  # of these failures
    unhealthy_since: float | None = None  # the time when it opened first; None = the circuit is closed
    open_s: float = 0.0  # the length of the last opening; 0 = closed
    until: float = 0.0  # the time when it becomes half-open
    trial: str = ""  # request id of the current trial call

    def is_unhealthy(self, now: float) -> bool:
        """Return True when calls should go elsewhere: the circuit is open, or its trial call has not ended."""
        return bool(self.open_s) and (now < self.until or bool(self.trial))


class Circuits:
    """`admit()` before a call, `note()` after it, `unhealthy()` for decisions."""

    def __init__(self, clock: Callable[[], float], first_s: float = 10.0) -> None:
        """`clock` returns monotonic seconds; `first_s` is the time for which a circuit opens first."""
        self._clock = clock
        self._first_s = first_s
        self._circuits: dict[str, _Circuit] = {}
        self._opened: set[str] = set()  # backends whose circuit is not closed
        self._busy: dict[str, float] = {}  # backend -> the time until which it wants no calls
        self._exhausted_at: float | None = (
            None  # the last time when a call failed because this machine lacked a resource
        )

    def unhealthy(self) -> frozenset[str]:
        """Return the backends whose circuit is open, or whose trial call has not ended."""
        if not self._opened:
            return _NONE
        now = self._clock()
        return frozenset(name for name in self._opened if self._circuits[name].is_unhealthy(now))

    def busy(self) -> frozenset[str]:
        """Return the backends that asked for no calls until a later time."""
        if not self._busy:
            return _NONE
        now = self._clock()
        for backend in [name for name, until in self._busy.items() if until <= now]:
            del self._busy[backend]
        return frozenset(self._busy)

    def states(self) -> dict[str, CircuitState]:
        """Return the state of each circuit, for the operator; a backend that was never called is absent."""
        now = self._clock()
        return {name: _state(circuit, now) for name, circuit in self._circuits.items()}

    def admit(self, backend: str, request_id: str) -> bool:
        """Return True when a call may go to a backend now.  The first call to a half-open circuit is its trial."""
        if backend not in self._opened:
            return True
        circuit = self._circuits[backend]
        if circuit.is_unhealthy(self._clock()):
            return False
        circuit.trial = request_id
        return True

    def answered(self, backend: str, request_id: str) -> None:
        """Note that a stream has begun.  When it is the trial call, the circuit closes now, not at the end of the
        stream.  If the stream breaks, this failure opens the circuit again."""
        circuit = self._circuits.get(backend)
        if circuit is not None and circuit.trial == request_id:
            self._close(backend, circuit)
            circuit.failures, circuit.trial = _FAILURES_TO_OPEN - 1, ""

    def note(self, call: CallRecord) -> None:
        """Count a finished call of any kind."""
        backend, ending = call.target.backend, call.ending
        circuit = self._circuits.get(backend)
        if circuit is None:
            circuit = self._circuits[backend] = _Circuit()
        was_trial = bool(circuit.trial) and circuit.trial == call.request_id
        if was_trial:
            circuit.trial = ""
        if ending.outcome == Outcome.CANCELLED or ending.error in _NOT_SENT:
            return
        if ending.error in RouterExhausted.KINDS:
            self._note_exhausted(ending.error)
            return
        if ending.busy:
            self._note_busy(backend, ending)
            return
        if self._exhausted_at is not None:
            self._note_recovered(self._exhausted_at)
        if ending.backend_failed:
            self._fail(backend, circuit, ending, already_open=circuit.open_s > 0 and not was_trial)
        elif circuit.failures or circuit.open_s:
            self._close(backend, circuit)

    def _fail(self, backend: str, circuit: _Circuit, ending: Ending, *, already_open: bool) -> None:
        """Count a failure.  `already_open`: the call began before the circuit opened."""
        circuit.failures += 1
        circuit.kinds[ending.error or "error"] += 1
        now = self._clock()
        if circuit.failures >= _FAILURES_TO_OPEN and not already_open:
            circuit.open_s = min(circuit.open_s * 2 or self._first_s, max(_LONGEST_S, self._first_s))
            circuit.until = now + circuit.open_s
        if ending.retry_after_s:
            circuit.open_s = circuit.open_s or self._first_s
            circuit.until = max(circuit.until, now + ending.retry_after_s)
        if circuit.open_s:
            self._opened.add(backend)
        if circuit.open_s and not already_open:
            _report_open(backend, circuit, now)

    def _note_busy(self, backend: str, ending: Ending) -> None:
        now = self._clock()
        until = now + (ending.retry_after_s or 0)
        if backend not in self.busy():
            log.info("%s: busy for %.3g s: %s", backend, until - now, ending.error)
        self._busy[backend] = max(until, self._busy.get(backend, 0))

    def _note_exhausted(self, kind: str | None) -> None:
        if self._exhausted_at is None:
            log.error("this machine has no %s left: calls fail, and no backend is to blame", kind)
        self._exhausted_at = self._clock()

    def _note_recovered(self, exhausted_at: float) -> None:
        if self._clock() - exhausted_at > _RECOVERED_S:
            log.info("calls can be made again")
            self._exhausted_at = None

    def _close(self, backend: str, circuit: _Circuit) -> None:
        if circuit.unhealthy_since is not None:
            log.info("%s: answers again after %.0f s", backend, self._clock() - circuit.unhealthy_since)
        circuit.failures, circuit.open_s, circuit.until, circuit.unhealthy_since = 0, 0.0, 0.0, None
        circuit.kinds.clear()
        self._opened.discard(backend)


def _state(circuit: _Circuit, now: float) -> CircuitState:
    if now < circuit.until:
        return CircuitState.OPEN
    return CircuitState.HALF_OPEN if circuit.open_s else CircuitState.CLOSED


def _report_open(backend: str, circuit: _Circuit, now: float) -> None:
    """Log that a circuit opened.  When it opens again because its trial call failed, the line is no warning, because
    the state has not changed."""
    level = logging.INFO
    if circuit.unhealthy_since is None:
        level, circuit.unhealthy_since = logging.WARNING, now
    seconds = round(circuit.until - now, 1)
    kinds = ", ".join(f"{number} x {kind}" for kind, number in circuit.kinds.most_common())
    log.log(level, "%s: cooling down for %g s: %s", backend, seconds, kinds)
