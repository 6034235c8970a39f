"""Estimate the time and the cost of a call.  Pure.

A call waits for a place, then for its model to load, and then the model works.  Only this module adds up these times.
"""

from __future__ import annotations

from app.routing.model_facts import model_facts
from app.types import BackendConfig, Estimate, ExpectedTime, Lane, ModelFacts, Observations, Queue, Target
from app.words import duration, rounded

_BYTES_PER_MS = 1_000_000  # 1 GB/s, about the speed of an SSD: the speed of a load until one was measured
_LANES = {lane: number for number, lane in enumerate(Lane, 1)}  # number of lanes whose calls go before a new one


def expected_time(
    target: Target, config: BackendConfig, observations: Observations, lane: Lane = Lane.INTERACTIVE
) -> ExpectedTime:
    """Return the parts of the expected time.  The warm part is the live median, else the policy's `p50Ms`."""
    key = (target.backend, target.model)
    median = observations.latency_ms.get(key)
    warm_ms = config.p50_ms if median is None else median
    ahead, wait_ms = _wait(target, config, observations, lane, warm_ms) if observations.queues else (0, 0.0)
    facts = model_facts(target, observations)
    return ExpectedTime(
        ahead=ahead,
        wait_ms=wait_ms,
        is_cold=facts.loaded is False,
        load_ms=_load_ms(facts, observations.load_ms.get(key)) if facts.loaded is False else 0.0,
        warm_ms=warm_ms,
        is_measured=median is not None,
    )


def expected_ms(target: Target, config: BackendConfig, observations: Observations) -> float | None:
    """Return the expected time of an interactive call; None = unknown."""
    return expected_time(target, config, observations).total_ms


def parts(expected: ExpectedTime) -> str:
    """Return why a call takes longer than a warm one: `3 ahead: +4.9 s, not loaded: +5.8 s`; "" when it does not."""
    loads = _part("not loaded", expected.load_ms) if expected.is_cold else ""
    return ", ".join(filter(None, (waiting(expected), loads)))


def waiting(expected: ExpectedTime) -> str:
    """Return the wait for a place: `3 ahead: +4.9 s`; "" when a place is free."""
    return _part(f"{expected.ahead} ahead", expected.wait_ms) if expected.ahead else ""


def document(expected: ExpectedTime) -> dict[str, float | None]:
    """Return the parts for JSON; null = unknown."""
    waits, loads, warm = expected.wait_ms, expected.load_ms, expected.warm_ms
    return {"wait_ms": rounded(waits), "load_ms": rounded(loads), "warm_ms": rounded(warm)}


def estimate(
    target: Target,
    config: BackendConfig,
    observations: Observations,
    input_tokens: int,
    output_tokens: int,
    lane: Lane = Lane.INTERACTIVE,
) -> Estimate:
    """Return the expected time and cost of a call.  `output_tokens` is the limit of the reply, 0 = no limit."""
    return Estimate(
        time=expected_time(target, config, observations, lane),
        price=config.price,
        input_tokens=input_tokens,
        output_tokens=output_tokens or None,
    )


def _wait(
    target: Target, config: BackendConfig, observations: Observations, lane: Lane, warm_ms: float | None
) -> tuple[int, float | None]:
    """Return the number of calls that run or wait before a new one, and the time until it gets a place.

    The calls before it are probably for the model that got the latest place.  A place is taken until the end of a
    stream; the time to the first byte is the best guess before a call has ended."""
    queue = observations.queues.get((target.backend, config.places_of(target.model)))
    if queue is None:
        return 0, 0.0
    own = observations.hold_ms.get((target.backend, target.model), warm_ms)
    hold_ms = next((ms for key in held_keys(target.backend, queue) if (ms := observations.hold_ms.get(key))), own)
    waiting = sum(queue.waiting[: _LANES[lane]])
    return queue.places + waiting, None if hold_ms is None else (waiting + 1) * hold_ms / queue.places


def held_keys(backend: str, queue: Queue) -> tuple[tuple[str, str], ...]:
    """Return the keys under which `hold_ms` may have the model of the latest place.  A queue has its model_key, and the
    calls have the name that the policy or the client uses."""
    return (backend, queue.model), (backend, queue.model.removesuffix(":latest"))


def _load_ms(facts: ModelFacts, median: float | None) -> float | None:
    if median is None and facts.size_bytes is not None:
        return facts.size_bytes / _BYTES_PER_MS
    return median


def _part(name: str, ms: float | None) -> str:
    return name if ms is None else f"{name}: +{duration(ms)}"
