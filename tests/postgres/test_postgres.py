"""LLR_DB=postgresql://…: the same store on a real server, shared by several routers.

make test-postgres
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from app.conversations import Conversations, Turn
from app.metrics.aggregates import Aggregate, Key
from app.metrics.store import Store
from app.storage import Storage, StoreError
from app.types import CallRecord, ResponsesRules
from tests import build
from tests.e2e.server import Router, wait_until
from tests.postgres.server import Postgres

pytestmark = pytest.mark.postgres

NOW = 1_700_000_000_000 // 86_400_000 * 86_400_000  # a day begins
HOUR_MS = 3_600_000
KEY = Key("local", "m", "default", "live")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as running:
        yield running


@pytest.fixture
def location(server: Postgres, request: pytest.FixtureRequest) -> str:
    return server.database(request.node.name[:60].lower())


@pytest.fixture
def store(location: str) -> Iterator[Store]:
    made = Store(location)
    yield made
    made.close()


def call(number: int, **more: object) -> CallRecord:
    fields = {"request_id": f"r{number}", "ts_ms": NOW + number, "latency_ms": 10 * number, "cost_usd": 0.5}
    return build.record(**{**fields, "input_tokens": 3, "output_tokens": 4, **more})


def facts(aggregate: Aggregate) -> tuple[object, ...]:
    return (
        aggregate.calls,
        aggregate.successes,
        aggregate.input_tokens,
        aggregate.cost_usd,
        aggregate.latency.total,
        tuple(aggregate.latency.bins),
    )


def test_rows_come_back_as_sums(store: Store) -> None:
    store.write([call(number) for number in range(1, 101)], dropped=7)
    store.write([call(101, outcome="error", error="timeout", model="other", cost_usd=None)])
    aggregates = store.window(NOW).aggregates
    assert facts(aggregates[KEY])[:5] == (100, 100, 300, 50.0, 50_500)
    assert aggregates["local", "other", "default", "live"].successes == 0
    assert facts(store.totals()[KEY]) == facts(aggregates[KEY])
    assert store.dropped() == 7
    assert not store.catch_up()


def test_what_clients_name_can_be_stored(store: Store) -> None:
    store.write([call(1, model="a\x00b\ud800 ü", input_tokens=2**70)])
    assert [key[1] for key in store.totals()] == ["a?b? ü"]


def test_long_windows_are_made_of_sums(store: Store) -> None:
    calls = [call(number, ts_ms=NOW - number * 5_000) for number in range(1, 24_001)]  # 33 hours
    for at in range(0, len(calls), 1000):
        store.write(calls[at : at + 1000])
    while store.catch_up():
        pass
    for hours in (1, 30, 33, 48):
        since = NOW - hours * HOUR_MS - 1234
        wanted = sum(one.times.ts_ms >= since for one in calls)
        assert store.window(since).aggregates[KEY].calls == wanted


def test_rows_that_nobody_summed_up_are_folded_in_small_steps(store: Store, location: str) -> None:
    store.write([call(1)])
    insert = "INSERT INTO metrics (ts, backend, model, route, kind, latency_ms, ok, shadow) SELECT %s, 'local', 'm'"
    storage = Storage(location)
    with storage.transaction() as database:
        database.execute_sql(f"{insert}, 'default', 'live', 10, true, false FROM generate_series(1, 12000)", (NOW,))
    storage.close()
    store.write([call(2)])
    shares = [store.window(0).summed.share]
    while store.catch_up():
        shares.append(store.window(0).summed.share)
        assert store.window(0).aggregates[KEY].calls == store.totals()[KEY].calls == 12_002 - store.unsummed()
    assert shares == sorted(shares) and 0 < shares[0] < 1 == shares[-1]
    assert store.totals()[KEY].calls == 12_002


def test_old_rows_go_and_totals_stay(store: Store) -> None:
    store.write([call(number, ts_ms=NOW - number * HOUR_MS) for number in reversed(range(50))])
    assert store.prune(NOW - 24 * HOUR_MS, most=10) == 10
    assert store.prune(NOW - 24 * HOUR_MS) == 15
    assert store.window(0).aggregates[KEY].calls == 25
    assert store.totals()[KEY].calls == 50


def test_medians_are_fed_in_order(store: Store) -> None:
    store.write([call(1, request_id="a"), call(2, request_id="b", stream=True, ttfb_ms=5)])
    last, rows = store.calls_after(0, NOW)
    assert [(row.request_id, bool(row.stream), row.ttfb_ms) for row in rows] == [("a", False, None), ("b", True, 5)]
    assert store.calls_after(last, NOW) == (last, [])


def test_refusals_add_up_and_are_pruned(store: Store) -> None:
    now_s = int(time.time()) // 600 * 600
    for _ in range(2):
        store.write(
            [], refusals={(now_s, "bad_request"): 2, (now_s - 48 * 3600, "bad_request"): 3, (now_s, "not_found"): 1}
        )
    assert store.refusals(1) == {"bad_request": 4, "not_found": 2}
    assert store.refusals() == {"bad_request": 10, "not_found": 2}
    store.prune((now_s - 24 * 3600) * 1000)
    assert store.refusals(100) == {"bad_request": 4, "not_found": 2}
    assert store.refusals() == {"bad_request": 10, "not_found": 2}


def test_workers_report(store: Store) -> None:
    store.report_worker("here:1", NOW, {"queued": 1})
    store.report_worker("here:1", NOW + 1, {"queued": 2})
    assert store.workers(NOW, 1000) == {"here:1": {"queued": 2}}
    store.forget_worker("here:1")
    assert store.workers(NOW, 1000) == {}


def test_mirrored_calls_find_their_live_ones(store: Store) -> None:
    mirrored = {"kind": "shadow", "backend": "cloud", "finish": "length", "answer_chars": 0}
    store.write([call(1, finish="stop", answer_chars=5), call(1, **mirrored, live_ts_ms=NOW + 1), call(2, **mirrored)])
    (pair,) = store.pairs(NOW)
    assert (pair.live.backend, pair.live.finish, pair.live.answer_chars) == ("local", "stop", 5)
    assert (pair.shadow.backend, pair.shadow.finish, pair.shadow.answer_chars) == ("cloud", "length", 0)


def test_calls_that_are_alike_are_counted(store: Store) -> None:
    away = {"backend": "cloud", "destination": "api.example:443", "reason": "pin", "route": "pin"}
    store.write([call(1), call(2), call(3, outcome="error", error="refused"), call(4, **away)])
    groups = {(group.backend, group.error): group for group in store.groups(NOW)}
    assert {key: group.calls for key, group in groups.items()} == {
        ("local", None): 2,
        ("local", "refused"): 1,
        ("cloud", None): 1,
    }
    assert (groups["local", None].first_ms, groups["local", None].last_ms) == (NOW + 1, NOW + 2)
    assert groups["cloud", None].is_away and not groups["local", None].is_away


def test_many_writers_lose_nothing(location: str) -> None:
    stores = [Store(location) for _ in range(4)]

    def work(number: int) -> None:
        for batch in range(20):
            _patiently(stores[number], [call(batch * 100 + n, request_id=f"{number}") for n in range(25)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    seen = [facts(one.totals()[KEY])[:3] for one in stores]
    assert seen == [(2000, 2000, 6000)] * 4
    for one in stores:
        one.close()


def _patiently(store: Store, calls: list[CallRecord]) -> None:
    """A batch that did not get its turn is kept, as the recorder keeps it."""
    for _ in range(50):
        try:
            return store.write(calls)
        except StoreError:
            continue
    raise AssertionError("never got a turn")


def test_conversations_are_shared(location: str) -> None:
    one, other = (Conversations(location, ResponsesRules(), lambda: NOW) for _ in range(2))
    item = {"id": "msg_1", "type": "message", "content": "nul \x00 and ü"}
    first = Turn(
        id="resp_1", ts_ms=NOW, previous_id=None, backend="local", model="m", kept_by_backend=False, private=False,
        input=(item,), response={"id": "resp_1", "output": []},
    )  # fmt: skip
    one.keep(first)
    assert other.turn("resp_1") == first
    assert other.chain("resp_1") == [first]
    assert other.items(["msg_1"])["msg_1"][0] == item
    assert other.turn("resp_1", "another owner") is None and other.items(["msg_1"], "another owner") == {}
    assert other.delete("resp_1")
    assert one.turn("resp_1") is None
    one.close()
    other.close()


OLD_TABLES = """
DROP TABLE llr_responses;
DROP TABLE llr_response_items;
CREATE TABLE llr_responses (id TEXT NOT NULL PRIMARY KEY, ts BIGINT NOT NULL, previous_id TEXT, backend TEXT NOT NULL,
    model TEXT NOT NULL, native BOOLEAN NOT NULL, private BOOLEAN NOT NULL, input TEXT NOT NULL,
    response TEXT NOT NULL);
CREATE INDEX llr_responses_ts ON llr_responses (ts);
CREATE TABLE llr_response_items (id TEXT NOT NULL PRIMARY KEY, response_id TEXT NOT NULL);
CREATE INDEX llr_response_items_response_id ON llr_response_items (response_id);
DELETE FROM llr_state WHERE name IN ('stored_rows', 'stored_bytes');
DELETE FROM llr_version WHERE number > 2;
INSERT INTO llr_response_items VALUES ('msg_1', 'resp_1');
"""


def test_stored_responses_of_an_older_version_get_an_owner(location: str) -> None:
    storage = Storage(location)
    with storage.transaction() as database:
        for statement in filter(str.strip, OLD_TABLES.split(";")):
            database.execute_sql(statement)
        values = ("resp_1", NOW, "b", "m", False, False, "[]", '{"output": [{"id": "msg_1"}]}')
        database.execute_sql(f"INSERT INTO llr_responses VALUES (%s, %s, NULL{', %s' * 6})", values)
    storage.close()
    kept = Conversations(location, ResponsesRules(max_rows=2), lambda: NOW)
    assert kept.turn("resp_1") and kept.items(["msg_1"])["msg_1"][0] == {"id": "msg_1"}
    assert kept.turn("resp_1", "a") is None
    for number in (2, 3):
        kept.keep(
            Turn(
                id=f"resp_{number}", ts_ms=NOW + number, previous_id=None, backend="b", model="m",
                kept_by_backend=False, private=False, owner="a",
            )
        )  # fmt: skip
    assert kept.turn("resp_1") is None and kept.turn("resp_2", "a") and kept.turn("resp_3", "a")
    kept.close()


def test_bounds_hold_while_several_machines_write(location: str) -> None:
    ours = [Conversations(location, ResponsesRules(max_rows=20), lambda: NOW) for _ in range(4)]

    def work(which: int) -> None:
        for number in range(50):
            response = {"id": f"resp_{which}_{number}", "output": []}
            turn = Turn(
                id=str(response["id"]), ts_ms=NOW + number, previous_id=None, backend="b", model="m",
                kept_by_backend=False, private=False, response=response, owner=str(which),
            )  # fmt: skip
            ours[which].keep(turn)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    for one in ours:
        one.close()
    storage = Storage(location)
    with storage.reading() as database:
        held = database.execute_sql("SELECT count(*), sum(size_bytes) FROM llr_responses").fetchone()
        counted = dict(database.execute_sql("SELECT name, value FROM llr_state"))
    storage.close()
    assert (counted["stored_rows"], counted["stored_bytes"]) == held
    assert held[0] == 20


def test_a_failure_names_the_database_without_its_password(location: str) -> None:
    wrong = Store(location.replace("/test_", "/no_such_"))
    with pytest.raises(StoreError) as caught:
        wrong.totals()
    assert "no_such_" in str(caught.value) and "s3cret" not in str(caught.value) and "\n" not in str(caught.value)


def test_reading_makes_no_tables_and_writes_nothing(location: str) -> None:
    reader = Store(location, read_only=True)
    with pytest.raises(StoreError, match="the router makes and upgrades them when it starts"):
        reader.source()
    writer = Store(location)
    writer.write([call(1)])
    assert reader.source().oldest_ms == NOW + 1
    reader.check_writable()
    with pytest.raises(StoreError, match="read-only"):
        reader.write([call(2)])
    assert len(writer.latest(9)) == 1
    writer.close()
    reader.close()


# --- routers ------------------------------------------------------------------------------------


def one_backend(endpoint: str) -> dict[str, object]:
    return {
        "backends": {"local": {"type": "ollama", "endpoint": endpoint, "models": ["m"]}},
        "routes": [{"default": "local"}],
    }


def summary(router: Router) -> dict[str, object]:
    return router.get("/v1/metrics").json


def test_two_routers_report_the_same_numbers(location: str, upstream, router) -> None:
    fake = upstream(models=["m"])
    pair = [router(one_backend(fake.url), workers=2, env={"LLR_DB": location}) for _ in range(2)]
    for number in range(20):
        assert pair[number % 2].chat("hello").status == 200
    for one in pair:
        wait_until(
            lambda one=one: summary(one)["backends"] and summary(one)["backends"][0]["calls"] == 20, 10, "20 calls"
        )
    assert summary(pair[0]) == summary(pair[1])
    assert 'llr_backend_calls_total{backend="local"} 20.0' in pair[1].get("/metrics").body.decode()
    wait_until(lambda: "llr_workers 4.0" in pair[0].get("/metrics").body.decode(), 10, "four workers")
    kept = pair[0].post("/v1/responses", {"model": "auto", "input": "hello"}).json
    assert pair[1].get(f"/v1/responses/{kept['id']}").json["id"] == kept["id"]
    again = {"model": "auto", "input": "and now?", "previous_response_id": kept["id"]}
    assert pair[1].post("/v1/responses", again).status == 200


def test_a_database_that_is_away_costs_no_request_and_no_row(server: Postgres, location: str, upstream, router) -> None:
    fake = upstream(models=["m"])
    running = router(one_backend(fake.url), workers=1, env={"LLR_DB": location})
    assert running.chat("hello").status == 200
    wait_until(lambda: summary(running)["backends"], 10, "the first row")
    server.stop()
    try:
        for _ in range(5):
            assert running.chat("hello").status == 200
        assert running.get("/v1/metrics").status == 503
        wait_until(lambda: "cannot be written" in running.log_text(), 10, "the log to say so")
    finally:
        server.start()
    wait_until(
        lambda: running.get("/v1/metrics").status == 200 and summary(running)["backends"][0]["calls"] == 6,
        15,
        "all rows",
    )
    assert "s3cret" not in running.log_text()
    assert running.terminate() == 0


def test_a_clean_stop_writes_every_row(location: str, upstream, router) -> None:
    fake = upstream(models=["m"])
    running = router(one_backend(fake.url), workers=1, env={"LLR_DB": location})
    for _ in range(30):
        assert running.chat("hello").status == 200
    assert running.terminate() == 0
    store = Store(location)
    assert store.window(int(time.time() * 1000) - HOUR_MS).aggregates[KEY].calls == 30
    store.close()


def test_sums_of_the_version_before_stay_and_judged_answers_get_their_own(location: str) -> None:
    with closing(Store(location)) as store:
        store.write([call(number) for number in range(3)])
    with closing(Storage(location)) as storage, storage.transaction() as database:
        keys = "span, bucket, backend, model, route, kind"
        database.execute_sql("ALTER TABLE llr_sums DROP CONSTRAINT llr_sums_pkey")
        for name in ("verified", "verified_reason", "held"):
            database.execute_sql(f"ALTER TABLE llr_sums DROP COLUMN {name}")
        database.execute_sql(f"ALTER TABLE llr_sums ADD PRIMARY KEY ({keys})")
        database.execute_sql("DELETE FROM llr_version WHERE number > 9")
    with closing(Store(location)) as store:
        store.write([call(7), call(8, verified="kept", held_ms=50)])
        assert {key[4:]: sums.calls for key, sums in store.totals().items()} == {("", ""): 4, ("kept", ""): 1}
    with closing(Storage(location)) as storage, storage.reading() as database:
        assert {*database.get_primary_keys("llr_sums")} == {*keys.split(", "), "verified", "verified_reason"}
