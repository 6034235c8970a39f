"""The share of a route's requests that is escalated: by rows, and by events of all workers before these have rows."""

from __future__ import annotations

import os

import pytest

from app.beliefs.escalations import DAY_MS, Escalations
from app.beliefs.share_events import ShareEvents
from app.metrics.shares import RouteCount
from app.metrics.store import Store
from app.routing.decide import decide
from app.types import Classification, Observations
from tests import build

NOW = 1_800_000_000_000


def policy(share: float = 0.3):
    return build.policy(
        f"""
        backends: {{local: {{type: ollama}}, cloud: {{type: openai, model: m}}}}
        routes:
          - match: {{task: code}}
            backend: local
          - default: local
            fallback: cloud
            verify: {{dailyShare: {share}}}
        """
    )


def asked(escalations: Escalations, *numbers: int) -> list[bool]:
    """Begin these requests, and try to escalate each of them."""
    verdicts = []
    for number in numbers:
        escalations.begin("default", f"r{number}", NOW)
        verdicts.append(escalations.claim("default", f"r{number}", NOW))
    return verdicts


@pytest.fixture
def fd():
    number = os.memfd_create("shares")
    yield number
    os.close(number)


def test_the_first_nineteen_are_free_and_then_the_share_holds():
    escalations = Escalations(policy())
    assert asked(escalations, *range(19)) == [True] * 19
    assert asked(escalations, *range(19, 65)) == [False] * 46
    assert escalations.spent == {"default"}
    assert asked(escalations, 65, 66) == [False, True]  # 20 of 67


@pytest.mark.parametrize(("share", "verdicts"), [(0, [False] * 40), (1, [True] * 40)])
def test_none_and_all(share, verdicts):
    assert asked(Escalations(policy(share)), *range(40)) == verdicts


def test_workers_count_together(fd):
    workers = [Escalations(policy(), ShareEvents(fd)) for _ in range(3)]
    verdicts = [asked(workers[number % 3], number)[0] for number in range(60)]
    assert verdicts == [True] * 19 + [False] * 41
    workers[0].read((), NOW)
    assert workers[0].spent == {"default"}


def test_an_escalation_that_fails_does_not_count(fd):
    one, two = (Escalations(policy(0.5), ShareEvents(fd)) for _ in range(2))
    asked(one, *range(19))
    for number in range(19):
        two.withdraw("default", f"r{number}", NOW)
    assert asked(one, *range(19, 39)) == [True] * 19 + [False]


def test_rows_take_the_place_of_events(fd):
    one = Escalations(policy(), ShareEvents(fd))
    asked(one, *range(10))
    first = [RouteCount(NOW, "default", f"r{number}", "route", 1, 0) for number in range(10)]
    more = [RouteCount(NOW, "default", f"r{number}", "escalated", 0, number % 2) for number in range(10)]
    one.read([*first, *more], NOW)  # five of the escalations failed
    assert asked(one, *range(100, 113)) == [True] * 9 + [False] * 4


def test_a_new_worker_reads_rows_and_no_old_events(fd):
    asked(Escalations(policy(), ShareEvents(fd)), *range(30))
    later = Escalations(policy(), ShareEvents(fd))
    assert asked(later, 100) == [True]
    later.read([RouteCount(NOW, "default", "", "", 30, 19), RouteCount(NOW, "another", "", "", 9, 9)], NOW)
    assert asked(later, 101) == [False]


def test_what_is_older_than_a_day_is_forgotten():
    escalations = Escalations(policy())
    escalations.read([RouteCount(NOW - DAY_MS - 600_000, "default", "", "", 100, 99)], NOW)
    assert asked(escalations, 1) == [True]


def test_the_ring_of_events_goes_round(fd):
    events = ShareEvents(fd)
    one = Escalations(policy(1), ShareEvents(fd))
    for number in range(9000):
        with events.lock:
            events.append("default", f"x{number}", NOW, 0)
    one.read((), NOW)
    assert len(one._routes["default"].open) == 8192


def test_rows_are_counted_in_the_database(tmp_path):
    store = Store(str(tmp_path / "metrics.db"))
    calls = [
        build.record(request_id="a", basis=basis()),
        build.record(request_id="a", reason="escalated", backend="cloud"),
        build.record(request_id="b", basis=basis()),
        build.record(request_id="b", reason="escalated", backend="cloud", outcome="error"),
        build.record(request_id="b", kind="verify", reason="verify"),
        build.record(request_id="c", basis=basis(), route="another"),
        build.record(request_id="d", basis=basis(), reason="escalated"),
    ]
    store.write(calls)
    ts = calls[0].times.ts_ms
    last, counts = store.counts_after(None, ts - 1, ("default",))
    assert counts == [RouteCount(ts // 600_000 * 600_000, "default", "", "", 3, 2)]
    store.write([build.record(request_id="e", basis=basis())])
    assert store.counts_after(last, ts - 1, ("default",)) == (last + 1, [RouteCount(ts, "default", "e", "route", 1, 0)])
    assert store.counts_after(None, ts + 1, ("default",)) == (last + 1, [])
    store.close()


def basis():
    tags = Classification("general", "low", "normal", "text", "any", 10)
    return decide(build.request(), tags, policy(), Observations()).basis
