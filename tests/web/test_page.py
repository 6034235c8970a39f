"""GET / and POST /: what stands on the page, and who may see it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from app.cli.table import shortened
from app.storage import now_ms
from app.types import CallRecord
from app.web.dashboard import formats
from app.web.dashboard.charts import count
from app.web.dashboard.tables import Health, quality_note, state
from tests import build
from tests.metrics.judged_rows import POLICY as JUDGED
from tests.metrics.judged_rows import escalated, first, kept
from tests.web.conftest import Client

KEYS = "first-key, zweiter-schlüssel"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
CANARY = "xyzzy plugh"
AWAY = "backends: {cloud: {type: sarmalink}}\nroutes: [default: cloud]"
PRICED = """\
backends:
  local: {type: echo, price: {input: 0, output: 0}}
  cloud: {type: openai, model: gpt, endpoint: "http://127.0.0.1:9/v1", price: {input: 2, output: 10}}
  other: {type: openai, model: m, endpoint: "http://127.0.0.1:9/v1", apiKeyEnv: ""}
routes:
  - match: {task: code}
    backend: cloud
    fallback: local
  - default: local
savings: {against: cloud}
"""


EXPORTED = {  # Prometheus' name: that of /v1/metrics
    "llr_backend_calls_total": "calls", "llr_backend_success_total": "successes",
    "llr_backend_cancelled_total": "cancelled", "llr_backend_fallback_total": "fallbacks",
    "llr_backend_spill_total": "spills", "llr_backend_input_tokens_total": "input_tokens",
    "llr_backend_output_tokens_total": "output_tokens", "llr_backend_cost_usd_total": "cost_usd",
    "llr_backend_shadow_calls_total": "shadow_calls", "llr_backend_latency_p95_ms": "p95_latency",
}  # fmt: skip


class Page(HTMLParser):
    """Its words, its elements, its addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self._inside):
            self.words.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.words).split())

    def tile(self, name: str) -> str:
        found = re.search(rf"<dt>{name}</dt><dd>(.*?)</dd>", self.text)
        assert found, name
        return found[1].replace("\u00a0", " ")


def page(client: FlaskClient, **options: Any) -> Page:
    response = client.get("/", headers=BROWSER, **options)
    assert response.status_code == 200
    return Page(response.text)


def fill(client: FlaskClient, *calls: Any) -> None:
    client.application.extensions["services"].store.write(calls)


def explained(client: FlaskClient, **form: str) -> Page:
    response = client.post("/", data={"model": "auto", **form}, headers=BROWSER)
    assert response.status_code == 200
    return Page(response.text)


# --- the document -------------------------------------------------------------------------------


def test_only_what_stands_in_the_document_may_run_or_style(client: Client) -> None:
    response = client().get("/", headers=BROWSER)
    policy = response.headers["Content-Security-Policy"]
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", response.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy and "http" not in policy
    assert "frame-ancestors 'none'" in policy and "form-action 'self'" in policy and "base-uri 'none'" in policy
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("environ", [{}, {"LLR_API_KEYS": KEYS}], ids=["page", "login"])
def test_nothing_is_loaded_and_nothing_runs_in_attributes(client: Client, environ: dict[str, str]) -> None:
    found = Page(client(**environ).get("/", headers=BROWSER).text)
    for tag, attributes in found.elements:
        assert tag not in ("img", "iframe", "object", "embed", "base"), tag
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src")], (tag, attributes)
        if tag == "link":
            assert str(attributes["href"]).startswith("data:")


def test_numbers_are_those_of_the_other_reports(client: Client) -> None:
    browser, now = client(PRICED), now_ms()
    known = {"input_tokens": 1000, "output_tokens": 100, "cost_usd": 0}
    fill(
        browser,
        *[build.record(ts_ms=now - n, latency_ms=100 + n, **known) for n in range(60)],
        build.record(ts_ms=now, backend="cloud", model="gpt", input_tokens=1000, output_tokens=100, cost_usd=0.003),
        build.record(ts_ms=now, outcome="error", error="refused"),
        build.record(ts_ms=now, backend="cloud", reason="fallback", fallback_for="local", outcome="cancelled"),
        build.record(ts_ms=now, backend="cloud", reason="spill", stream=True, ttfb_ms=55, cost_usd=None),
        build.record(ts_ms=now, kind="shadow", reason="shadow", backend="cloud"),
    )  # fmt: skip
    services = browser.application.extensions["services"]
    services.recorder.immediate = False  # all reports come from the database, as those of the command line
    services.store.report_worker("host:1", now, build.worker_report())
    shown, total = page(browser), browser.get("/v1/metrics").json["total"]
    assert (total["calls"], total["requests"], total["errors"], total["cancelled"], total["spills"]) == (
        64,
        63,
        1,
        1,
        1,
    )
    assert shown.tile("Requests") == "63" and "64 calls to backends" in shown.said
    assert shown.tile("Success") == formats.percent(total["success_rate"]).replace("\u00a0", " ") == "98.4 %"
    assert shown.tile("Local") == "96.8 %" and total["local_share"] == 0.9677
    assert shown.tile("Fallback") == "1.6 %" and shown.tile("Spill") == "1.6 %"
    assert shown.tile("Latency") == f"{total['p50_latency']} ms" and shown.tile("First byte") == "55 ms"
    assert shown.tile("Cost") == "$0.003" and total["cost_usd"] == 0.003
    text = browser.get("/metrics").text
    assert 'llr_backend_calls_total{backend="local"} 61.0' in text
    assert 'llr_backend_spill_total{backend="cloud"} 1.0' in text
    done = browser.application.test_cli_runner().invoke(args=["metrics", "summary", "--json"])
    assert done.exit_code == 0
    said = browser.application.json.loads(done.stdout)
    assert said == browser.get("/v1/metrics").json


def with_report(browser: FlaskClient, **row: Any) -> FlaskClient:
    """A client of an application whose only report is that of a worker in the database."""
    services = browser.application.extensions["services"]
    services.recorder.immediate = False
    services.store.report_worker("host:1", now_ms(), build.worker_report(**row))
    return browser


def test_the_models_on_the_page_are_those_of_the_other_reports(client: Client) -> None:
    browser = with_report(client(PRICED), expires_ms=now_ms() + 250_500)
    shown, summary = page(browser), browser.get("/v1/metrics").json
    (server,) = [server for server in summary["servers"] if server["models"]]
    (model,) = server["models"]
    for words in (
        "local 4 calls wait: 1 interactive, 3 agent",
        "2 + 4 waiting 1 interactive, 3 agent",
        f"llama3.1:8b loaded unloads in 4 min {model['window']:,} of {model['trained']:,} 5.2 GB 62 % on the GPU",
        "5.08 s wait 4.9 s + warm 180 ms 7 6 tools",
    ):
        assert words in shown.said.replace("\u00a0", " ")
    assert sum(model["expected"].values()) == 5080
    exported = browser.get("/metrics").text
    for name, value in {
        "llr_model_loaded": 1, "llr_model_window_tokens": model["window"], "llr_model_gpu_share": model["gpu_share"],
        "llr_model_trained_tokens": model["trained"], "llr_model_loads_total": model["loads"],
        "llr_model_evictions_total": model["evictions"], "llr_model_warm_ms": model["expected"]["warm_ms"],
        "llr_model_load_ms": model["expected"]["load_ms"],
    }.items():  # fmt: skip
        assert f'{name}{{backend="local",model="llama3.1:8b"}} {float(value)}' in exported, name
    for lane, number in server["waiting"].items():
        assert f'llr_backend_waiting{{backend="local",lane="{lane}"}} {float(number)}' in exported


@pytest.mark.parametrize(
    "row, words",
    [
        ({"loaded": True}, "loaded stays loaded"),
        ({"loaded": False, "gpu_share": None}, "not loaded 4,096"),
        ({"loaded": None, "window": 8192, "trained": None}, "– 8,192"),
        ({"window": 131072}, "131,072 5.2 GB"),
        ({"window": None}, "– of 131,072"),
        ({"size_bytes": 815_000_000, "gpu_share": 1}, "815 MB 100 % on the GPU"),
        ({"size_bytes": None, "gpu_share": None}, "of 131,072 – 5.08 s"),
        ({"expected": {"wait_ms": 0, "load_ms": 5800, "warm_ms": 200}}, "6 s load 5.8 s + warm 200 ms 7"),
        ({"expected": {"wait_ms": 0, "load_ms": 0, "warm_ms": 200}}, "200 ms 7"),
        ({"expected": {"wait_ms": 0, "load_ms": 5800, "warm_ms": None}}, "– load 5.8 s 7"),
        ({"expected": {}}, "– 7 6"),
        ({"capabilities": ["completion", "tools", "vision"]}, "7 6 tools, vision"),
        ({"capabilities": None}, "7 6 llama3.1:8b reads"),
    ],
)
def test_a_model_in_words(client: Client, row: dict[str, Any], words: str) -> None:
    said = page(with_report(client(PRICED), **row)).said.replace("\u00a0", " ")
    assert words in said, said[said.index("Models on your") :][:800]


@pytest.mark.parametrize(
    "row, mark, is_marked",
    [
        ({"window": 4096}, 'bad">4,096', True),
        ({"window": 4096, "trained": 4096}, 'bad">4,096', False),
        ({"window": 8192}, 'bad">8,192', False),
        ({"window": 4096}, "reads 4,096 tokens at most, although it was trained for 131,072", True),
        ({"window": 8192}, "tokens at most", False),
        ({"gpu_share": 0.62}, "38\u00a0% of llama3.1:8b is not on the GPU, so it is slow.", True),
        ({"gpu_share": 1.0}, "not on the GPU", False),
        ({"gpu_share": 0.62}, "under warn", True),
        ({"gpu_share": 1.0}, "under warn", False),
        ({"gpu_share": 0.0}, "under warn", False),
    ],
)
def test_what_makes_a_model_weak_or_slow_is_marked(
    client: Client, row: dict[str, Any], mark: str, is_marked: bool
) -> None:
    assert (mark in page(with_report(client(PRICED), **row)).text) is is_marked


def test_servers_that_tell_nothing_have_no_table(client: Client) -> None:
    shown = page(client(PRICED))
    assert "No server has told about its models yet" in shown.said and "Models of local" not in shown.text


FAILED = {"backend": "cloud", "outcome": "error", "error": "timeout"}
TOLD = {"input_tokens": 1000, "output_tokens": 100}
COSTS: dict[str, tuple[list[dict[str, Any]], str, str, str]] = {
    "all calls failed": ([FAILED] * 3, "$0", "of the calls with known tokens", "0 / 0"),
    "a backend without a price, whose calls failed": (
        [{**FAILED, "backend": "other"}, {"backend": "cloud", "cost_usd": 0.5, **TOLD}],
        "$0.50",
        "of the calls with known tokens",
        "1,000 / 100",
    ),
    "a priced backend that tells no tokens": (
        [{"backend": "cloud"}] * 2,
        "unknown",
        "of the calls with known tokens",
        "unknown",
    ),
    "one of two tells its tokens": (
        [{"backend": "cloud"}, {"backend": "cloud", "cost_usd": 0.5, **TOLD}],
        "$0.50",
        "reported for 1 of 2 replies",
        "1,000 / 100",
    ),
    "tokens without a price": (
        [{"backend": "other", **TOLD}],
        "unknown",
        "the known part; no price: other",
        "1,000 / 100",
    ),
    "some without a price": (
        [{"backend": "other", **TOLD}, {"backend": "cloud", "cost_usd": 0.5, **TOLD}],
        "$0.50",
        "the known part; no price: other",
        "2,000 / 200",
    ),
}


@pytest.mark.parametrize("name", COSTS)
def test_what_a_cost_or_a_count_of_tokens_leaves_out_is_said(client: Client, name: str) -> None:
    calls, cost, note, tokens = COSTS[name]
    browser = client(PRICED)
    fill(browser, *[build.record(ts_ms=now_ms(), **call) for call in calls])
    shown = page(browser)
    assert (shown.tile("Cost"), shown.tile("Tokens")) == (cost, tokens)
    assert note in shown.said
    assert ("no price" in shown.said.partition("Backends")[0]) == ("no price" in note)


def a_busy_day(now: int) -> Iterator[CallRecord]:
    """Rows of all kinds, two thirds of them older than an hour."""
    for number in range(600):
        cloud, bad = number % 5 == 0, number % 17 == 0
        tokens = {} if bad else {"input_tokens": 900 + number, "output_tokens": 40 + number}
        yield build.record(
            request_id=f"req-{number}", ts_ms=now - (number % 3) * 7_000_000, stream=number % 2 == 0,
            backend="cloud" if cloud else "local", latency_ms=50 + 7 * number % 900,
            ttfb_ms=20 + number if number % 2 == 0 else None, outcome="error" if bad else "ok",
            error="timeout" if bad else None, cost_usd=0.25 * cloud, route="task=code" if cloud else "default",
            reason="fallback" if number % 25 == 0 else "route", fallback_for="local" if number % 25 == 0 else None,
            kind="shadow" if number % 31 == 0 else "live", **tokens,
        )  # fmt: skip


def cells(text: str, section: str) -> dict[str, list[str]]:
    """The rows of a table on the page by what their first cell begins with."""
    table = text.partition(f'<div id="{section}"')[2].partition("</table>")[0]
    rows = re.findall(r'<tr><th scope="row"[^>]*>(.*?)</tr>', table, re.DOTALL)
    found = [[" ".join(Page(cell).said.split()) for cell in re.split(r"</t[hd]>", row)[:-1]] for row in rows]
    return {row[0].replace(", ", ",").split(" ")[0]: row[1:] for row in found}


@pytest.mark.parametrize("hours", [1, 24])
def test_page_json_prometheus_and_terminal_agree(client: Client, hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same window, number by number; Prometheus has totals, which are those of the window that holds all rows."""
    monkeypatch.setenv("COLUMNS", "200")
    browser = client(PRICED)
    fill(browser, *a_busy_day(now_ms()))
    said = browser.get(f"/v1/metrics?hours={hours}").json
    text = browser.get(f"/?hours={hours}", headers=BROWSER).text
    terminal = browser.application.test_cli_runner().invoke(args=["metrics", "summary", "--since", f"{hours}h"])
    lines = {line.split()[0]: line.split()[1:] for line in terminal.stdout.splitlines() if line}
    assert f"{said['total']['requests']} requests in {hours} hours" in terminal.stdout
    assert f"{said['database']}, rows since {said['rows_since']}" in text
    assert f"{said['database']}: rows since {said['rows_since']}" in " ".join(terminal.stdout.split())
    assert said["total"]["calls"] == sum(entry["calls"] for entry in said["backends"])
    for name, section in (("backend", "backends"), ("route", "routes")):
        shown = cells(text, section)
        assert len(said[section]) == 2
        for entry in said[section]:
            tokens = [shortened(entry[f"{way}_tokens"]) for way in ("input", "output")]
            share = entry["success_rate"]
            assert lines[entry[name]] == [
                str(entry["calls"]), f"{share:.1%}", str(entry["fallbacks"]), str(entry["p50_latency"]),
                str(entry["p95_latency"]), *tokens, f"{entry['cost_usd']:g}",
            ]  # fmt: skip
            on_page = (
                *(str(entry["calls"]), formats.percent(share), formats.percent(entry["fallback_rate"])),
                *(formats.ms(entry[member]) for member in ("p50_latency", "p95_latency", "p50_ttfb")),
                " / ".join(count(entry[f"{way}_tokens"]) for way in ("input", "output")),
                formats.usd(entry["cost_usd"]),
            )
            assert shown[entry[name]][-8:] == [text.replace("\u00a0", " ") for text in on_page]
    samples = {
        (sample.name, sample.labels.get("backend")): sample.value
        for family in text_string_to_metric_families(browser.get("/metrics").text)
        for sample in family.samples
    }
    whole = said if hours == 24 else browser.get("/v1/metrics").json
    for entry in whole["backends"]:
        for sample, member in EXPORTED.items():
            assert samples[sample, entry["backend"]] == pytest.approx(entry[member]), sample


def test_answers_judged(client: Client) -> None:
    browser, now = client(JUDGED), now_ms()
    assert "No route judges answers" in page(browser).said
    calls = [*kept(1), *kept(2), *kept(3), *escalated(1), first(verified="observed")]
    fill(browser, *[build.changed(call, ts_ms=now) for call in calls])
    shown = page(browser)
    row = cells(shown.text.replace("\u00a0", " "), "judged")["default"]
    assert row == ["5", "4", "3 75 %", "1 25 %", "0", "1", "250 ms", "400 ms", "3 $0", "unknown"]
    assert "default: escalated because of 1 agreement." in shown.said
    assert shown.tile("Requests") == "5" and shown.tile("Local") == "80 %"
    for reason in ("its answer was kept", "its answer was not sent (agreement)", "second opinion", "did not hold"):
        assert reason in shown.said.partition("Latest calls")[2]
    assert "(agreement)" in shown.said and "observed" not in shown.said.partition("Latest calls")[2]


def test_savings(client: Client) -> None:
    browser, now = client(PRICED), now_ms()
    fill(browser, *[build.record(ts_ms=now, input_tokens=1000, output_tokens=100, cost_usd=0)] * 10)
    fill(browser, build.record(ts_ms=now, backend="cloud", input_tokens=1000, output_tokens=100, cost_usd=0.003))
    assert browser.get("/v1/metrics").json["savings"] == {
        "against": "cloud", "calls": 11, "counted_calls": 11, "there_usd": 0.033, "here_usd": 0.003,
        "saved_usd": 0.03, "unpriced": [],
    }  # fmt: skip
    assert page(browser).tile("Saved") == "$0.03"
    fill(browser, build.record(ts_ms=now, backend="other", input_tokens=5, output_tokens=5))
    savings = browser.get("/v1/metrics").json["savings"]
    assert (savings["here_usd"], savings["saved_usd"], savings["unpriced"]) == (None, None, ["other"])
    assert page(browser).tile("Saved") == "unknown"


def test_backends_and_what_is_wrong_with_them(client: Client) -> None:
    browser = client(PRICED)
    fill(browser, build.record(ts_ms=now_ms(), backend="gone"))
    said = page(browser).said
    assert "key missing circuit closed" in said
    assert "cloud: set OPENAI_API_KEY for the router’s process" in said
    assert "gone not local no longer in the policy" in said
    for _ in range(3):
        browser.post("/v1/chat/completions", json={"model": "other", "messages": [{"role": "user", "content": "x"}]})
    assert "unhealthy circuit open" in page(browser).said


@pytest.mark.parametrize(
    "health, words",
    [
        (Health(replies=True), ("up", "good")),
        (Health(), ("ready", "plain")),
        (Health(replies=False), ("down", "bad")),
        (Health(replies=True, open_circuits=1), ("unhealthy", "bad")),
        (Health(missing_key="A_KEY"), ("key missing", "bad")),
    ],
)
def test_states(health: Health, words: tuple[str, str]) -> None:
    assert state(health) == words


def test_the_last_calls_say_how_they_ended_and_why_there(client: Client) -> None:
    browser, now = client(PRICED), now_ms()
    fill(
        browser,
        build.record(ts_ms=now - 65_000, outcome="error", error="http_503", task="code", complexity="high"),
        build.record(
            ts_ms=now, backend="cloud", reason="fallback", fallback_for="local", input_tokens=7, output_tokens=9
        ),
    )
    said = page(browser).said
    assert "error: http_503" in said and "code, high" in said and "1 min" in said
    assert "local failed" in said and "7 / 9" in said


def test_nothing_of_a_prompt_stands_on_the_page(client: Client) -> None:
    browser = client()
    browser.post("/v1/chat/completions", json={"model": "auto", "messages": [{"role": "user", "content": CANARY}]})
    found = page(browser)
    assert found.tile("Requests") == "1" and CANARY not in found.text


@pytest.mark.parametrize("hours, words", [("1", "1 hour"), ("168", "7 days"), ("3", "3 hours"), ("nan", "24 hours")])
def test_other_windows(client: Client, hours: str, words: str) -> None:
    found = page(client(), query_string={"hours": hours})
    assert f"No calls in the last {words}." in found.said
    assert len(found.text) < 200_000


def test_a_database_that_cannot_be_read(client: Client, tmp_path: Path) -> None:
    (tmp_path / "no.db").write_text("no database " * 100)
    found = page(client(LLR_DB=str(tmp_path / "no.db")))
    assert (
        "The metrics database cannot be read, so this page has no numbers" in found.said
        and found.tile("Requests") == "0"
    )


def test_no_model_is_set_up(client: Client) -> None:
    assert "No model is set up" in page(client("backends: {e: {type: echo}}\nroutes: [{default: e}]\n")).said
    assert "No model is set up" not in page(client()).said


# --- the dry run --------------------------------------------------------------------------------


def test_where_would_it_go(client: Client) -> None:
    found = explained(client(PRICED), prompt="Fix this Python function: def f(): retrun 1")
    assert "cloud gpt not local then local echo local" in found.said and "by the route task=code" in found.said
    assert "task: code" in found.said
    shown = page(client(PRICED))
    assert shown.tile("Requests") == "0", "nothing was called"


def test_what_would_be_sent_stands_in_the_box(client: Client) -> None:
    said = explained(client(PRICED), prompt="Fix this Python function: def f(): retrun 1").said
    assert "first cloud/gpt, NOT LOCAL, time unknown, $0.00003 in, $10.00 per 1M tokens out" in said
    assert "POST http://127.0.0.1:9/v1/chat/completions" in said
    assert "bytes, unchanged except for the model; OPENAI_API_KEY is not set: the call would fail" in said
    assert "then local/echo, local, time unknown, free no request is sent: this backend is a part of the router" in said
    assert "never other: the route task=code does not name it" in said
    assert "never cloud, other: the request is private" in explained(client(PRICED), prompt="hello", private="on").said


def test_private_prompts_and_refusals(client: Client) -> None:
    browser = client()
    assert "private, because of the header" in explained(browser, prompt="hello", private="on").said
    assert "private, because of detector:email" in explained(browser, prompt="write to a@corp.example").said
    moved = explained(browser, prompt="hello", private="on", model="cloud").said
    assert "pin refused: the request is private, and model 'cloud' is not local" in moved
    refused = explained(client(AWAY), prompt="hello", private="on", model="cloud").said
    assert "It would be refused: 503 no_eligible_backend" in refused
    assert "It would be refused: 404 model_not_found" in explained(browser, prompt="hello", model="clodu").said


def test_a_prompt_is_shown_as_text(client: Client) -> None:
    text = "</textarea><script>alert(1)</script> {{ 7 * 7 }}"
    found = explained(client(), prompt=text, model="<b>")
    assert "<script>alert" not in found.text and "&lt;script&gt;alert(1)&lt;/script&gt; {{ 7 * 7 }}" in found.text


# --- who may come in ----------------------------------------------------------------------------


def test_a_browser_is_asked_for_a_key_once(client: Client) -> None:
    browser = client(LLR_API_KEYS=KEYS)
    asked = browser.get("/", headers=BROWSER)
    assert asked.status_code == 401 and asked.mimetype == "text/html"
    assert 'name="key"' in asked.text and "Backends" not in asked.text
    done = browser.post("/", data={"key": " zweiter-schlüssel "}, headers=BROWSER)
    assert (done.status_code, done.headers["Location"]) == (303, "/")
    cookie = done.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/" in cookie and "Secure" not in cookie
    assert "Backends" in page(browser).said
    assert "task: general" in explained(browser, prompt="hello").said
    browser.post("/", data={"leave": "1"}, headers=BROWSER)
    assert browser.get("/", headers=BROWSER).status_code == 401


def test_the_mark_opens_the_page_and_nothing_else(client: Client) -> None:
    browser = client(LLR_API_KEYS=KEYS)
    cookie = browser.post("/", data={"key": "first-key"}).headers["Set-Cookie"]
    assert "first" not in cookie and base64.b64encode(b"first-key").decode() not in cookie
    assert browser.get("/", headers=BROWSER).status_code == 200
    for path in ("/v1/models", "/v1/metrics", "/metrics", "/v1/ab"):
        assert browser.get(path).status_code == 401
    assert browser.post("/v1/route", json={}).status_code == 401
    again = client(LLR_API_KEYS="another-key")
    again.set_cookie("llr_page", cookie.partition("=")[2].partition(";")[0])
    assert again.get("/", headers=BROWSER).status_code == 401, "the key is no longer one"


@pytest.mark.parametrize("key", ["", "first-ke", "first-key,", "FIRST-KEY", "first-key, zweiter-schlüssel", "\u2028"])
def test_wrong_keys(client: Client, key: str) -> None:
    response = client(LLR_API_KEYS=KEYS).post("/", data={"key": key}, headers=BROWSER)
    assert response.status_code == 401
    assert "This key is not valid." in response.text and "Set-Cookie" not in response.headers


@pytest.mark.parametrize("form", [{"prompt": "hello"}, {"leave": "1"}, {}])
def test_no_form_works_without_a_key(client: Client, form: dict[str, str]) -> None:
    response = client(LLR_API_KEYS=KEYS).post("/", data=form, headers=BROWSER)
    assert response.status_code == 401 and "task:" not in response.text


def test_other_clients_get_the_error_and_may_send_the_header(client: Client) -> None:
    plain = client(LLR_API_KEYS=KEYS)
    refused = plain.get("/")
    assert (refused.status_code, refused.json["error"]["code"]) == (401, "invalid_api_key")
    assert plain.get("/", headers={"Authorization": "Bearer first-key"}).status_code == 200


def test_behind_tls_the_cookie_is_secure(client: Client) -> None:
    done = client(LLR_API_KEYS=KEYS).post("/", data={"key": "first-key"}, base_url="https://localhost")
    assert "Secure" in done.headers["Set-Cookie"]


@pytest.mark.parametrize(
    "host, origin, status",
    [
        ("127.0.0.1:3030", "http://127.0.0.1:3030", 200),
        ("llm.office:3030", "http://llm.office:3030", 200),
        ("llm.office", "https://llm.office", 200),
        ("llm.office:3030", "http://llm.office:8000", 403),
        ("llm.office:3030", "http://evil.example", 403),
        ("llm.office:3030", "null", 403),
        ("evil.example", "http://evil.example", 403),
    ],
)
def test_forms_of_our_own_page_alone(client: Client, host: str, origin: str, status: int) -> None:
    browser = client(LLR_ALLOWED_HOSTS="llm.office")
    headers = {**BROWSER, "Host": host, "Origin": origin}
    assert browser.post("/", data={"prompt": "hello", "model": "auto"}, headers=headers).status_code == status
    if origin == "http://llm.office:3030":
        assert browser.post("/v1/route", json={}, headers=headers).status_code == 403, "the API's rule is as it was"


def test_any_host_is_no_host_of_ours(client: Client) -> None:
    headers = {**BROWSER, "Host": "evil.example", "Origin": "http://evil.example"}
    assert client(LLR_ALLOWED_HOSTS="*").post("/", data={"prompt": "x"}, headers=headers).status_code == 403


# --- the size of forms --------------------------------------------------------------------------


def test_a_stranger_gets_no_more_read_than_a_key_needs(client: Client) -> None:
    made = client(LLR_API_KEYS="key")
    assert made.post("/", data={"key": "key", "more": "x" * 5000}).status_code == 401
    page = made.post("/", data={"key": "key", "more": "x" * 5000}, headers=BROWSER)
    assert (page.status_code, 'name="key"' in page.get_data(as_text=True)) == (401, True)
    assert made.post("/", data={"key": "key", "more": "x" * 3000}).status_code == 303


def test_a_prompt_to_try_may_be_long_but_not_endless(client: Client) -> None:
    made = client(LLR_API_KEYS="key")
    known = {"Authorization": "Bearer key"}
    assert made.post("/", data={"prompt": "word " * 80_000}, headers=known).status_code == 200
    refused = made.post("/", data={"prompt": "x" * 600_000}, headers=known)
    assert (refused.status_code, refused.json["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/x-www-form-urlencoded", b"&".join(b"a=1" for _ in range(100)), 400),
        ("application/x-www-form-urlencoded", b"prompt=%ff%zz&prompt=second&=&&", 200),
        ("application/x-www-form-urlencoded", b"", 200),
        ("multipart/form-data; boundary=x", b"--x--", 415),
        ("text/plain", b"prompt=x", 415),
    ],
)
def test_odd_forms(client: Client, kind: str, body: bytes, status: int) -> None:
    assert client().post("/", data=body, content_type=kind).status_code == status


@pytest.mark.parametrize(
    ("quality", "note"),
    [
        ({"n": 0, "agreement": None, "doubt": None, "primaryDoubt": None}, ""),
        (
            {"n": 1200, "agreement": 0.714, "doubt": 0.2, "primaryDoubt": 0.258},
            "; 1,200 answers were judged: mean doubt 0.20, that of the primary 0.26, agreement 0.71",
        ),
        (
            {"n": 1, "agreement": None, "doubt": 1, "primaryDoubt": 0},
            "; 1 answer was judged: mean doubt 1.00, that of the primary 0.00",
        ),
    ],
    ids=str,
)
def test_the_note_on_the_quality_of_a_trial(quality: dict[str, Any], note: str) -> None:
    assert quality_note(quality) == note
