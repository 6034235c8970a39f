"""`flask doctor` on routes that judge answers."""

from __future__ import annotations

from typing import Any

import click
import pytest

from app.cli import checks
from app.cli.checks import Discovery, Facts, Finding
from app.cli.records import read
from app.metrics.judged import judged_report
from app.metrics.queries import TimedPart
from app.metrics.store import Store
from app.settings import Settings
from app.storage import now_ms
from tests import build
from tests.metrics.judged_rows import escalated, first

NOW = 1_700_000_000_000
CHECKS = ("confidence", "daily-share", "released", "second-opinion")
POLICY = """\
backends:
  small: {type: ollama, models: [s], local: true, price: {input: 0, output: 0}}
  peer: {type: llamacpp, models: [p], local: true, price: {input: 0, output: 0}}
  strong: {type: openai, model: gpt, price: {input: 10, output: 20}}
routes:
  - default: small
    fallback: strong
    verify: {RULES, dailyShare: 0.3}
"""
DAY = {
    "route": "default", "requests": 100, "asked_first": 90, "kept": 60, "escalated": 20, "released": 10, "observed": 10,
    "daily_share": 0.3,
}  # fmt: skip


def findings(rules: str = "second: peer", **facts: Any) -> list[Finding]:
    made = build.policy(POLICY.replace("RULES", rules))
    known = {"settings": Settings(), "policy": made, "discoveries": {}, "now_ms": NOW}
    some = checks.findings(Facts(**{**known, **facts}))
    return [finding for finding in some if finding.check in CHECKS]


@pytest.mark.parametrize(
    "rules, reply, found",
    [
        ("samples: 1", Discovery(models=("s",), gives_logprobs=False), True),
        ("samples: 1", Discovery(models=("s",), gives_logprobs=True), False),
        ("samples: 1", Discovery(error="refused", kind="refused"), False),  # not known
        ("samples: 2", Discovery(models=("s",), gives_logprobs=False), False),
        ("second: peer", Discovery(models=("s",), gives_logprobs=False), False),
        ("by: [structure]", Discovery(models=("s",), gives_logprobs=False), False),
    ],
)
def test_evidence(rules: str, reply: Discovery, found: bool) -> None:
    some = findings(rules, discoveries={"small": reply})
    assert [finding.check for finding in some] == ["confidence"] * found
    if found:
        assert some[0].what.startswith("small gives no log-probabilities and there is no second opinion")


@pytest.mark.parametrize(
    "day, check",
    [
        ({}, None),
        ({"escalated": 29}, None),
        ({"escalated": 30}, "daily-share"),
        ({"escalated": 19, "requests": 19, "asked_first": 19}, None),  # the first requests are not limited
        ({"escalated": 6, "requests": 20}, "daily-share"),
        ({"escalated": 80, "daily_share": None}, None),  # the policy no longer judges
        ({"released": 44}, None),
        ({"released": 45}, "released"),
        ({"released": 10, "asked_first": 10}, None),
    ],
)
def test_the_last_day(day: dict[str, Any], check: str | None) -> None:
    some = findings(judged=[{**DAY, **day}])
    assert [(finding.check, finding.where) for finding in some] == ([(check, "default")] if check else [])


def test_a_used_up_share_is_told_with_its_numbers() -> None:
    (finding,) = findings(judged=[{**DAY, "escalated": 31}])
    assert finding.what == (
        "31 of 100 requests of the last 24 hours were escalated, as many as `dailyShare` (0.3) allows: further answers "
        "are sent as they come"
    )
    assert "flask verify tune" in finding.fix


def turn(at_s: int, model: str, load_ms: int | None, backend: str = "small") -> TimedPart:
    return TimedPart(NOW + at_s * 1000, backend, model, 500 + (load_ms or 0), None, load_ms)


TURNS = [turn(10 * number, model, 4000) for number, model in enumerate("ststst")]


@pytest.mark.parametrize(
    "second, timed, found",
    [
        ("small/t", TURNS, True),
        ("small/t", TURNS[:4], False),  # too few
        ("small/t", [call._replace(load_ms=None) for call in TURNS], False),  # both fit
        ("small/u", TURNS, False),  # others evict the model
        ("small", TURNS, False),  # the same model
        ("peer", TURNS, False),  # another server
    ],
)
def test_second_opinions_that_cost_loads(second: str, timed: list[TimedPart], found: bool) -> None:
    some = findings(f"second: {second}", timed=timed)
    assert [finding.check for finding in some] == ["second-opinion"] * found
    if found:
        assert some[0].what == (
            "its second opinions make s and t take turns in the memory of small: 4 loads in the last hour took 16 s"
        )


def test_the_numbers_of_the_last_day_come_from_the_database(tmp_path: Any) -> None:
    file, now = str(tmp_path / "metrics.db"), now_ms()
    calls = [call for number in range(30) for call in escalated(number)]
    store = Store(file)
    store.write([build.changed(call, ts_ms=now - 7_200_000) for call in calls])
    store.write([build.changed(first(verified="released"), ts_ms=now - 90_000_000)])
    store.close()
    policy = build.policy(POLICY.replace("RULES", "second: peer"))
    with click.Context(click.Command("doctor")):
        day = read(file).last_day
    (row,) = judged_report(day, policy)["routes"]
    assert (row["requests"], row["escalated"], row["released"]) == (30, 30, 0)
