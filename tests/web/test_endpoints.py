"""Every URL in immediate mode, over the echo backend and fake ones."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.metrics import rollup
from app.metrics import window as windows
from app.storage import Storage, now_ms
from app.version import VERSION
from app.words import utc
from tests import build
from tests.fakes.backends import FakeBackend, FakeStream, config, whole
from tests.web.conftest import ECHO, Client

CHAT: Any = {"messages": [{"role": "user", "content": "hello there"}]}
NOTE = "[echo: no model is set up, this is your own text] "


def replace_backend(made: Any, name: str, *answers: Any) -> FakeBackend:
    """Puts a fake at our own seam in the place of a backend."""
    runtime = made.application.extensions["services"]
    fake = FakeBackend(config(name), *answers)
    object.__setattr__(runtime.upstreams[name], "backend", fake)
    return fake


# --- /v1/chat/completions -----------------------------------------------------------------------


def test_a_chat(client: Client) -> None:
    response = client().post("/v1/chat/completions", json={"model": "auto", **CHAT})
    assert (response.status_code, response.mimetype) == (200, "application/json")
    assert response.json["choices"][0]["message"] == {"role": "assistant", "content": NOTE + "hello there"}
    assert response.headers["X-LLR-Backend"] == "parrot"
    assert response.headers["X-LLR-Model"] == "echo:1b"
    assert response.headers["X-LLR-Route"] == "default"
    assert response.headers["X-LLR-Request-Id"].startswith("llr-")
    assert "X-LLR-Fallback-For" not in response.headers


def test_a_streamed_chat(client: Client) -> None:
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    response = client().post("/v1/chat/completions", json=body)
    assert (response.status_code, response.mimetype) == (200, "text/event-stream")
    assert response.headers["X-LLR-Backend"] == "parrot"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Accel-Buffering"] == "no"
    *events, done, rest = response.get_data().split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])
    assert text == NOTE + "hello there"
    assert chunks[-1]["usage"]["total_tokens"] > 0


def test_a_fallback_is_told_in_a_header(client: Client) -> None:
    body = {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png,x"}}]}]
    }
    response = client().post("/v1/chat/completions", json=body)
    assert response.headers["X-LLR-Backend"] == "parrot"
    assert response.headers["X-LLR-Fallback-For"] == "cloud"
    assert response.headers["X-LLR-Route"] == "task=vision"


def test_the_answer_of_a_backend_passes_byte_for_byte(client: Client) -> None:
    made = client()
    answer = whole()
    answer.body = b'{ "x":1.0, "choices" :[], "n":12345678901234567890123 , "x":2}\n'
    replace_backend(made, "parrot", answer)
    assert made.post("/v1/chat/completions", json=CHAT).get_data() == answer.body


def test_a_stream_passes_byte_for_byte(client: Client) -> None:
    made = client()
    pieces = (b": hi\r\n\r\ndata: {", b'"a":1}\n\n', b"event: x\ndata: [DONE]\n\n")
    fake = replace_backend(made, "parrot", FakeStream(*pieces))
    response = made.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert response.get_data() == b"".join(pieces)
    ((request, target, stream, private),) = fake.calls
    assert (request.surface, target.model, stream, private) == ("chat", "echo:1b", True, False)


def test_a_model_with_odd_letters_cannot_break_a_header(client: Client) -> None:
    made = client()
    response = made.post("/v1/chat/completions", json={**CHAT, "model": "parrot/ä\r\nX-Evil: 1\ud800" + "y" * 500})
    assert response.status_code == 200
    assert response.headers["X-LLR-Model"] == "???X-Evil: 1?" + "y" * 187
    assert "X-Evil" not in response.headers


# --- /v1/models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/route"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_model_name_has_an_end(client: Client, path: str, stream: bool) -> None:
    body = {**CHAT, "stream": stream} if "chat" in path else {"input": "x", "stream": stream}
    made = client()
    assert made.post(path, json={**body, "model": f" {'x' * 1024} "}).status_code == 200
    refused = made.post(path, json={**body, "model": "x" * 1025})
    assert refused.status_code == 400
    assert refused.json["error"]["param"] == "model"
    assert refused.json["error"]["message"] == "`model` must not be longer than 1024 characters; it has 1025."


def test_the_models(client: Client) -> None:
    before = int(time.time())
    answer = client().get("/v1/models").json
    assert answer["object"] == "list"
    listed = [(entry["id"], entry["owned_by"]) for entry in answer["data"]]
    assert listed == [
        ("auto", "router"),
        ("parrot", "router"),
        ("cloud", "router"),
        ("echo:1b", "parrot"),
        ("org/echo", "parrot"),
        ("gpt", "cloud"),
    ]
    assert {entry["object"] for entry in answer["data"]} == {"model"}
    assert all(before - 5 <= entry["created"] <= before + 5 for entry in answer["data"])


def test_a_model_that_two_backends_hold_is_listed_once_for_the_first(client: Client) -> None:
    made = client(
        "backends: {a: {type: echo, models: [m, b]}, b: {type: echo, families: {llama: m, gemma: n}}}\n"
        "routes: [default: a]"
    )
    listed = [(entry["id"], entry["owned_by"]) for entry in made.get("/v1/models").json["data"]]
    assert listed == [("auto", "router"), ("a", "router"), ("b", "router"), ("m", "a"), ("n", "b")]


@pytest.mark.parametrize("name", ["auto", "parrot", "echo:1b", "org/echo", "gpt", "parrot/org/echo"])
@pytest.mark.parametrize("quoted", [False, True])
def test_one_model(client: Client, name: str, quoted: bool) -> None:
    answer = client().get("/v1/models/" + (quote(name, safe="") if quoted else name))
    assert answer.status_code == 200
    assert answer.json["id"] == name
    assert set(answer.json) == {"id", "object", "created", "owned_by"}


@pytest.mark.parametrize(
    "name", ["echo", "echo:2b", "org", "parrot/x", "org/echo/x", "%00", "a" * 5000, "..%2f..%2fetc"]
)
def test_a_model_that_is_not_there(client: Client, name: str) -> None:
    answer = client().get(f"/v1/models/{name}")
    assert answer.status_code == 404
    assert answer.json["error"]["code"] == "model_not_found"
    assert len(answer.json["error"]["message"]) < 200


# --- /v1/route ----------------------------------------------------------------------------------


def test_a_dry_run_calls_nothing(client: Client, tmp_path: Path) -> None:
    made = client()
    fakes = [replace_backend(made, name) for name in ("parrot", "cloud")]
    answer = made.post("/v1/route", json={"model": "cloud", **CHAT})
    assert list(answer.json) == [
        "lane", "classification", "evidence", "route", "targets", "trace", "calls", "mirrors", "verify", "never",
        "sensitivity_reason",
        "conversation",
    ]  # fmt: skip
    assert answer.json["route"] == "pin"
    assert answer.json["targets"] == [{"backend": "cloud", "model": "gpt"}]
    tags = answer.json["classification"]
    assert (tags["task"], tags["complexity"], tags["sensitivity"]) == ("general", "low", "normal")
    assert (tags["modality"], tags["family"], tags["tokens"]) == ("text", "llama", 7)
    assert answer.json["trace"][0] == {"stage": "match", "outcome": "pinned by model 'cloud'"}
    assert [fake.calls for fake in fakes] == [[], []]
    assert not (tmp_path / "metrics.db").exists()
    assert answer.headers["X-LLR-Request-Id"].startswith("llr-")


@pytest.mark.parametrize("body", [{"input": "hello there"}, {"input": [{"role": "user", "content": "hello there"}]}])
def test_a_dry_run_of_a_responses_body(client: Client, body: dict[str, Any]) -> None:
    answer = client().post("/v1/route", json=body)
    assert (answer.status_code, answer.json["route"]) == (200, "default")


def test_a_dry_run_of_a_private_request(client: Client) -> None:
    answer = client().post("/v1/route", json=CHAT, headers={"X-LLR-Sensitivity": "high"}).json
    assert (answer["route"], answer["targets"]) == ("sensitivity=high", [{"backend": "parrot", "model": "echo:1b"}])
    pinned = client().post("/v1/route", json={"model": "cloud", **CHAT}, headers={"X-LLR-Sensitivity": "high"})
    assert (pinned.json["route"], pinned.json["targets"]) == (answer["route"], answer["targets"])
    assert pinned.headers["X-LLR-Pin"] == "refused"


OFFICE = """\
backends:
  local: {type: ollama, endpoint: "http://127.0.0.1:9", models: [m], p50Ms: 1800, price: {input: 0, output: 0}}
  cloud: {type: openai, model: gpt, p50Ms: 900, price: {input: 2.5, output: 10}}
  other: {type: sarmalink}
routes:
  - match: {sensitivity: high}
    backend: local
  - default: local
    fallback: cloud
ab: {enabled: true, sampleRate: 0.05, candidates: {local: other}}
"""
LIMITED = {"model": "auto", "max_tokens": 500, "stream": True, **CHAT}


def test_a_dry_run_says_what_would_be_sent_where(client: Client, tmp_path: Path) -> None:
    made = client(OFFICE, OPENAI_API_KEY="sk-secret")
    answer = made.post("/v1/route", json=LIMITED)
    sent = {**LIMITED, "model": "m"}
    local, cloud = answer.json["calls"]
    assert local == {
        "backend": "local", "model": "m", "local": True, "circuit": "closed", "expected_ms": 1800,
        "expected_from": "policy", "price": {"input": 0, "output": 0}, "input_tokens": 7, "output_tokens": 500,
        "input_usd": 0, "cost_usd": 0, "url": "http://127.0.0.1:9/v1/chat/completions", "body": "passed_on",
        "sent_bytes": len(made.application.json.dumps(sent)), "key_env": None, "key_set": None,
        "expected": {"wait_ms": 0, "load_ms": 0, "warm_ms": 1800, "ahead": 0, "delays": ""},
    }  # fmt: skip
    assert (cloud["backend"], cloud["local"], cloud["expected_ms"]) == ("cloud", False, 900)
    assert (cloud["input_usd"], cloud["cost_usd"]) == (0.0000175, 0.0050175)
    assert cloud["url"] == "https://api.openai.com/v1/chat/completions"
    assert (cloud["key_env"], cloud["key_set"]) == ("OPENAI_API_KEY", True)
    (mirror,) = answer.json["mirrors"]
    assert (mirror["backend"], mirror["kind"]) == ("other", "shadow")
    assert mirror["why"] == "5 % of what local answers, for the A/B trial"
    assert (mirror["key_env"], mirror["key_set"]) == ("SARMALINK_API_KEY", False)
    assert mirror["sent_bytes"] == local["sent_bytes"] + len("smart") - len("m") + len("false") - len("true")
    assert answer.json["never"] == []
    assert "sk-secret" not in answer.text and not (tmp_path / "metrics.db").exists()


def test_a_dry_run_of_a_private_request_says_where_it_never_goes(client: Client) -> None:
    answer = client(OFFICE).post("/v1/route", json=LIMITED, headers={"X-LLR-Sensitivity": "high"}).json
    assert [call["backend"] for call in answer["calls"]] == ["local"]
    assert answer["mirrors"] == []
    why = "the request is private and it is not local"
    assert answer["never"] == [{"backend": "cloud", "why": why}, {"backend": "other", "why": why}]


def test_a_dry_run_of_a_responses_body_says_what_becomes_of_it(client: Client) -> None:
    body = {"input": "hello there", "max_output_tokens": 500}
    local, cloud = client(OFFICE).post("/v1/route", json=body).json["calls"]
    assert (local["body"], local["url"]) == ("translated", "http://127.0.0.1:9/v1/chat/completions")
    assert (cloud["body"], cloud["url"]) == ("native", "https://api.openai.com/v1/responses")
    assert cloud["output_tokens"] == 500
    chat = {"model": "m", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 500}
    assert local["sent_bytes"] == len(json.dumps(chat, separators=(",", ":")))


def test_a_dry_run_knows_medians_circuits_and_who_is_measured(client: Client) -> None:
    made = client(OFFICE.replace("fallback: cloud", "fallback: cloud\n    latencyBudgetMs: 2000"))
    runtime = made.application.extensions["services"]
    for number in range(6):
        runtime.record(build.record(request_id=f"r{number}", ts_ms=now_ms(), model="m", latency_ms=2500))
    for _ in range(3):
        runtime.circuits.note(build.record(backend="other", outcome="error", error="timeout", backend_failed=True))
    answer = made.post("/v1/route", json=LIMITED).json
    assert [call["backend"] for call in answer["calls"]] == ["cloud", "local"]
    assert (answer["calls"][1]["expected_ms"], answer["calls"][1]["expected_from"]) == (2500, "measured")
    assert [(one["backend"], one["kind"], one["circuit"]) for one in answer["mirrors"]] == [
        ("local", "probe", "closed"),
        ("other", "shadow", "open"),
    ]


def test_what_a_dry_run_foresees_is_what_is_sent(client: Client, upstream: Any) -> None:
    """Byte for byte in number, and at the very place."""
    up = upstream(models=["m"])
    made = client(OFFICE.replace("http://127.0.0.1:9", up.url))
    for path, body in (("/v1/chat/completions", {"max_tokens": 5, **CHAT}), ("/v1/responses", {"input": "hi"})):
        foreseen = made.post("/v1/route", json=body).json["calls"][0]
        assert made.post(path, json=body).status_code == 200
        sent = up.requests[-1]
        assert (f"{up.url}{sent.path}", len(sent.body)) == (foreseen["url"], foreseen["sent_bytes"])
    assert len(up.chats) == 2, "dry runs sent nothing"


# --- metrics ------------------------------------------------------------------------------------


def test_every_call_is_in_the_metrics_at_once(client: Client, tmp_path: Path) -> None:
    made = client()
    for _ in range(3):
        made.post("/v1/chat/completions", json=CHAT)
    made.post("/v1/chat/completions", json={**CHAT, "stream": True}).get_data()
    made.post("/v1/chat/completions", json={**CHAT, "model": "cloud"})
    summary = made.get("/v1/metrics").json
    assert list(summary) == [
        "window_hours", "backends", "routes", "models", "database", "rows_since", "total", "savings", "verify",
        "servers",
        "refusals", "rows_dropped",
    ]  # fmt: skip
    assert [(entry["backend"], entry["calls"], entry["successes"]) for entry in summary["backends"]] == [
        ("cloud", 1, 0),
        ("parrot", 4, 4),
    ]
    assert [(entry["route"], entry["calls"]) for entry in summary["routes"]] == [("default", 4), ("pin", 1)]
    assert summary["backends"][1]["p50_ttfb"] is not None
    database = sqlite3.connect(tmp_path / "metrics.db")
    rows = database.execute("SELECT backend, outcome, error, stream, surface FROM metrics ORDER BY id").fetchall()
    database.close()
    assert rows == [
        *[("parrot", "ok", None, 0, "chat")] * 3,
        ("parrot", "ok", None, 1, "chat"),
        ("cloud", "error", "no_key", 0, "chat"),
    ]
    text = made.get("/metrics")
    assert text.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    calls = {
        sample.labels["backend"]: sample.value
        for family in text_string_to_metric_families(text.get_data(as_text=True))
        for sample in family.samples
        if sample.name == "llr_backend_calls_total"
    }
    assert calls == {"parrot": 4, "cloud": 1}


def test_what_left_this_machine(client: Client) -> None:
    made = client()
    replace_backend(made, "cloud", whole())
    made.post("/v1/chat/completions", json=CHAT)
    made.post("/v1/chat/completions", json={**CHAT, "model": "cloud"})
    report = made.get("/v1/egress").json
    assert (report["window_hours"], report["total"]["calls"]) == (24, 1)
    (call,) = report["calls"]
    assert (call["backend"], call["destination"], call["reason"], call["outcome"]) == ("cloud", "fake", "pin", "ok")
    assert call["sent_bytes"] == report["total"]["sent_bytes"] > 50
    assert report["destinations"] == {"fake": report["total"]}
    assert "hello" not in json.dumps(report)


@pytest.mark.parametrize("count", [0, 1, 1999, 2000, 2001, 4000])
def test_a_ledger_of_any_length_is_whole(client: Client, count: int) -> None:
    """It is read in pages of 2,000."""
    made = client()
    store, now = made.application.extensions["services"].store, int(time.time() * 1000)
    away = {"backend": "cloud", "destination": "api.example:443", "sent_bytes": 2, "ts_ms": now}
    calls = [build.record(request_id=f"r{number}", **away) for number in range(count)]
    for begin in range(0, count, 500):
        store.write([*calls[begin : begin + 500], build.record(ts_ms=now)])
    report = made.get("/v1/egress").json
    assert [call["request_id"] for call in report["calls"]] == [call.request_id for call in calls]
    assert report["total"] == {"calls": count, "sent_bytes": 2 * count}
    assert report["destinations"] == ({"api.example:443": report["total"]} if count else {})


@pytest.mark.parametrize("path", ["/v1/metrics", "/v1/ab", "/v1/egress"])
@pytest.mark.parametrize(
    "query, hours",
    [
        ("", 24),
        ("?hours=", 24),
        ("?hours=1", 1),
        ("?hours=0.5", 0.5),
        ("?hours=8760", 8760),
        ("?hours=8761", 8760),
        ("?hours=1e9", 8760),
        ("?hours=0", 24),
        ("?hours=-5", 24),
        ("?hours=nan", 24),
        ("?hours=inf", 24),
        ("?hours=1e999", 24),
        ("?hours=soon", 24),
        ("?hours=1&hours=2", 1),
        ("?Hours=1", 24),
        ("?hours=1%00", 24),
        ("?hours='%20OR%201=1", 24),
    ],
)
def test_the_hours_of_a_query(client: Client, path: str, query: str, hours: float) -> None:
    answer = client().get(path + query)
    assert (answer.status_code, answer.json["window_hours"]) == (200, hours)


def test_the_ab_report(client: Client) -> None:
    made = client(ECHO.replace("sampleRate: 0", "sampleRate: 1"))
    replace_backend(made, "cloud", whole())
    for _ in range(21):
        made.post("/v1/chat/completions", json=CHAT)
    report = made.get("/v1/ab").json
    assert (report["enabled"], report["window_hours"], len(report["pairs"])) == (True, 24, 1)
    (pair,) = report["pairs"]
    assert (pair["primary"], pair["candidate"], pair["candidateSamples"]) == ("parrot", "cloud", 21)
    assert (pair["pairs"], pair["candidateEmptyShare"], pair["candidateCutShare"]) == (21, 0, None)
    assert pair["recommendation"] == "hold" and "parrot is type echo, which is no model" in pair["reasons"][0]
    (cloud, parrot) = made.get("/v1/metrics").json["backends"]
    assert (cloud["calls"], cloud["shadow_calls"]) == (0, 21)
    assert (parrot["calls"], parrot["shadow_calls"]) == (21, 0)


def test_a_private_request_is_not_mirrored_to_the_cloud(client: Client) -> None:
    made = client(ECHO.replace("sampleRate: 0", "sampleRate: 1"))
    fake = replace_backend(made, "cloud", whole())
    made.post("/v1/chat/completions", json=CHAT, headers={"X-LLR-Sensitivity": "high"})
    made.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "mail me@corp.example"}]})
    assert fake.calls == []
    made.post("/v1/chat/completions", json=CHAT)
    assert len(fake.calls) == 1


@pytest.mark.parametrize("path", ["/v1/metrics", "/v1/ab", "/v1/egress", "/metrics"])
def test_a_database_that_cannot_be_read_is_told(client: Client, tmp_path: Path, path: str) -> None:
    (tmp_path / "metrics.db").write_bytes(b"no database " * 100)
    made = client()
    answer = made.get(path)
    assert answer.status_code == 503
    assert answer.json["error"]["code"] == "metrics_unavailable"
    assert answer.json["error"]["message"].endswith("file is not a database")
    assert made.post("/v1/chat/completions", json=CHAT).status_code == 200, "requests go on"


# --- /health and / ------------------------------------------------------------------------------


def test_health(client: Client) -> None:
    made = client()
    answer = made.get("/health").json
    assert (answer["ok"], answer["version"], answer["backends"]) == (True, VERSION, ["parrot", "cloud"])
    assert (answer["cooling"], answer["rows_queued"]) == ([], 0)
    assert 0 <= answer["uptime_s"] < 60
    assert len(answer["policy"]) == 12
    for _ in range(3):
        made.post("/v1/chat/completions", json={**CHAT, "model": "cloud"})
    assert made.get("/health").json["cooling"] == ["cloud"]


def test_health_reads_no_database(client: Client, tmp_path: Path) -> None:
    made = client(LLR_DB=str(tmp_path / "nowhere" / "m.db"))
    made.post("/v1/chat/completions", json=CHAT)
    answer = made.get("/health")
    assert (answer.status_code, answer.json["rows_queued"]) == (200, 1)


def test_the_dashboard_of_names_that_are_markup(client: Client) -> None:
    made = client('backends: {"<b>x&": {type: echo}}\nroutes: [default: "<b>x&"]')
    made.post("/v1/chat/completions", json=CHAT)
    page = made.get("/").get_data(as_text=True)
    assert "<b>x" not in page
    assert page.count("&lt;b&gt;x&amp;") >= 5  # backend, route and its way, call, model to choose


def test_the_dashboard_of_a_database_that_cannot_be_read(client: Client, tmp_path: Path) -> None:
    (tmp_path / "metrics.db").write_bytes(b"no database " * 100)
    answer = client().get("/")
    assert answer.status_code == 200
    assert "The metrics database cannot be read" in answer.get_data(as_text=True)


@pytest.mark.parametrize("path", ["/v1//chat/completions", "/v1/chat//completions"])
def test_a_base_url_that_ends_in_a_slash(client: Client, path: str) -> None:
    asked = client().post(path, json={"messages": [{"role": "user", "content": "hello"}]})
    assert (asked.status_code, asked.json["object"]) == (200, "chat.completion")


def test_more_slashes_open_no_door(client: Client) -> None:
    guarded = client(LLR_API_KEYS="abc")
    for path in ("/v1//models", "//", "/v1/metrics//"):
        assert guarded.get(path, base_url="http://localhost").status_code in (401, 403, 404), path


def test_reports_say_how_far_an_upgraded_database_is_summed_up(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "_EXACT_ROWS", 10)
    monkeypatch.setattr(rollup, "_FRESH_ROWS", 25)
    monkeypatch.setattr(rollup, "_STEP_ROWS", 50)
    made = client()
    now = now_ms()
    with Storage(str(tmp_path / "metrics.db")).transaction() as database:
        insert = "INSERT INTO metrics (ts, backend, latency_ms, ok, shadow) VALUES (?, 'old', 10, 1, 0)"
        for minutes in reversed(range(100)):
            database.execute_sql(insert, (now - minutes * 60_000,))
    summary, page, text = (made.get(path) for path in ("/v1/metrics", "/", "/metrics"))
    since = utc(now - 25 * 60_000 + 1)
    assert (summary.json["summed"], summary.json["total"]["calls"]) == ({"share": 0.25, "since": since}, 25)
    assert f"include 25\u00a0% of the calls in the last 24 hours: the calls since {since}." in page.text
    assert "llr_rows_unsummed 75.0" in text.text and "llr_backend_calls_total{" not in text.text
    store = made.application.extensions["services"].store
    while store.catch_up():
        pass
    summary, page, text = (made.get(path) for path in ("/v1/metrics", "/", "/metrics"))
    assert summary.json["total"]["calls"] == 100 and "summed" not in summary.json
    assert "of the calls in the last 24 hours: those since" not in page.text
    assert "llr_rows_unsummed 0.0" in text.text and 'llr_backend_calls_total{backend="old"} 100.0' in text.text


@pytest.mark.parametrize(("path", "stream"), [("/v1/chat/completions", False), ("/v1/responses", True)])
def test_the_program_that_asks_is_told_by_its_headers_and_stored(
    client: Client, tmp_path: Path, path: str, stream: bool
) -> None:
    made = client()
    headers = {"User-Agent": "codex_cli_rs/0.171.0 (Debian 12; x86_64) xterm", "originator": "codex_cli_rs"}
    tool = {"name": "exec_command", "parameters": {"type": "object", "properties": {}}}
    chat = {"messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function", "function": tool}]}
    responses = {"input": "hi", "tools": [{"type": "function", **tool}]}
    body = {**(responses if path == "/v1/responses" else chat), "stream": stream}
    shown = made.post("/v1/route", json=body, headers=headers).json
    tags = shown["classification"]
    assert (tags["client"], tags["tools"], tags["purpose"], shown["lane"]) == ("codex", True, "agent", "agent")
    assert made.post(path, json=body, headers=headers).data
    with closing(sqlite3.connect(tmp_path / "metrics.db")) as database:
        rows = database.execute("SELECT client, tools, purpose, lane FROM metrics").fetchall()
    assert rows == [("codex", 1, "agent", "agent")]


def test_a_conversation_stays_where_it_is(client: Client) -> None:
    turns = ["Write a Python function that merges two lists.", "Done.", "thanks"]
    roles = ("user", "assistant", "user")
    body = {"messages": [{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)]}
    shown = client().post("/v1/route", json=body).json
    assert shown["classification"]["task"] == "code"
    assert shown["trace"][0] == {
        "stage": "tags", "outcome": "code stands since turn 1: turn 2 is short and continues it",
    }  # fmt: skip
    assert shown["conversation"]["alone"]["task"] == "general"
    kept = client().post("/v1/chat/completions", json=body, headers={"X-LLR-Explain": "1"})
    assert kept.headers["X-LLR-Trace"].startswith("tags: code stands since turn 1")
