"""`flask verify`: the report on judged answers, and the search for a doubt."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result

from app import create_app
from app.metrics.store import Store
from app.storage import now_ms
from app.types import CallRecord
from app.words import utc
from tests import build
from tests.metrics.judged_rows import OPINION, POLICY, SMALL, escalated, first, kept, later

Run = Callable[..., Result]
HOUR_MS = 3_600_000


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("verify", "report")` as `flask verify report`, with the policy in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("LLR_DB", "./metrics.db")
    (tmp_path / "policy.yaml").write_text(POLICY)
    environ = {"LLR_POLICY": "./policy.yaml", "LLR_DB": "./metrics.db", "FLASK_RUN_FROM_CLI": "true"}

    def invoke(*arguments: str, text: str | None = None) -> Result:
        result = create_app(environ).test_cli_runner().invoke(args=arguments, input=text)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke


def fill(calls: Iterable[CallRecord], ago_ms: int = 0) -> int:
    """Write the calls as if they had ended so long ago; return the time."""
    at = now_ms() - ago_ms
    with closing(Store("metrics.db")) as store:
        store.write([build.changed(call, ts_ms=at) for call in calls])
    return at


# --- report ---------------------------------------------------------------------------------------


def test_a_report_names_the_file_the_time_and_every_number(run: Run) -> None:
    calls = [*kept(1), *kept(2), *kept(3), *escalated(1), first(verified="observed"), first()]
    at = fill(calls)
    output = run("verify", "report", "--since", "24h").output
    assert output.startswith(f"./metrics.db: rows since {utc(at)}\nanswers judged since ")
    for line in (
        "  asked first      4 of 6 requests",
        "  kept             3 (75.0%)",
        "  escalated        1 (25.0%): 1 agreement",
        "  observed         1",
        "  added time       250 ms on average, 400 ms at p95",
        "  second opinions  3, 0 USD",
    ):
        assert f"\n{line}" in output, output
    document = json.loads(run("verify", "report", "--since", "24h", "--json").output)
    assert (document["database"], document["rows_since"]) == ("./metrics.db", utc(at))
    (route,) = document["routes"]
    assert (route["route"], route["kept"], route["reasons"]) == ("default", 3, {"agreement": 1})
    assert document["total"]["asked_first"] == 4 and "since" in document


def test_a_window_leaves_older_answers_out(run: Run) -> None:
    fill(kept(1), 30 * HOUR_MS)
    fill(escalated(1))
    day, week = (json.loads(run("verify", "report", "--since", since, "--json").output) for since in ("24h", "7d"))
    assert [report["total"]["asked_first"] for report in (day, week)] == [1, 2]


def test_an_unknown_price_is_named(run: Run) -> None:
    fill([*kept(1), later(**{**OPINION, **SMALL, "cost_usd": None})])
    output = run("verify", "report").output
    assert "saved            an unknown amount: no price for peer" in output
    assert "second opinions  2, an unknown cost" in output


def test_nothing_was_judged(run: Run) -> None:
    fill([first()])
    assert "no route has judged answers since" in run("verify", "report").output
    assert json.loads(run("verify", "report", "--json").output)["routes"] == []


def test_no_rows(run: Run) -> None:
    fill([])
    assert "no rows since" in run("verify", "report").output


# --- replay ---------------------------------------------------------------------------------------


def test_a_replay_prints_what_another_doubt_would_have_done(run: Run, tmp_path: Path) -> None:
    """The rows are of another policy, so their doubts are compared with the limit of this one."""
    text = POLICY.replace("    fallback: strong\nsavings", "    fallback: strong\n    verify: {doubt: 0.1}\nsavings")
    (tmp_path / "new.yaml").write_text(text)
    tags = {"difficulty": 0.2, "sensitivity": "normal", "modality": "text", "family": "any", "tokens": 10}
    fill([build.changed(call, **tags) for call in [*kept(1), *kept(2), *escalated(1)]])
    output = run("policy", "replay", "new.yaml").output
    for line in (
        "answers judged  then  now",
        "kept               2    0",
        "escalated          1    3",
        "cost     then 0.0014 USD, now 0.0038 USD (known for 3 of 3)",
    ):
        assert f"\n{line}\n" in output, output
