"""What the page shows, from what was measured.  Pure, but for `gather`, which reads the database."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app import words
from app.metrics.aggregates import Aggregate, Key, merged
from app.metrics.queries import ShownCall
from app.metrics.report import read_summary
from app.metrics.rollup import BUCKET_S
from app.metrics.store import Store
from app.metrics.summary import ab_report, metrics_summary, overview
from app.metrics.window import Steps
from app.routing.locality import is_local
from app.types import JsonDict, JsonObject, Kind, Observations, Outcome, Policy, Target
from app.web.dashboard.charts import Chart, Series, bars, count, lines

WINDOWS = ((1.0, "1 hour"), (24.0, "24 hours"), (168.0, "7 days"))
_LATEST = 25
_MOST_STEPS = 60
_STEPS_S = tuple(BUCKET_S * times for times in (1, 6, 18, 36, 72, 144, 432, 1008))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One look at the database."""

    summary: JsonObject  # as /v1/metrics
    ab: JsonObject  # as /v1/ab
    steps: Steps
    latest: Sequence[ShownCall]  # newest first


def gather(store: Store, policy: Policy, observations: Observations, hours: float, now_ms: int) -> Figures:
    """Blocks.  Raises StoreError."""
    summary, steps = read_summary(store, policy, observations, hours, now_ms, step_s(hours))
    pairs = store.pairs(now_ms - int(hours * 3_600_000))
    return Figures(
        summary=summary,
        ab=ab_report(pairs, policy.ab, hours, policy.echoes),
        steps=steps,
        latest=store.latest(_LATEST),
    )


def nothing(policy: Policy, observations: Observations, hours: float) -> Figures:
    """While the database cannot be read."""
    counts: JsonDict = {"database": None, "rows_since": None, "refusals": {}, "rows_dropped": None}
    summary = metrics_summary({}, hours, {**overview({}, policy, observations), **counts})
    return Figures(summary=summary, ab=ab_report((), policy.ab, hours, policy.echoes), steps={}, latest=())


def step_s(hours: float) -> int:
    """The length of a step: a window has at most some 60 of them."""
    return next((step for step in _STEPS_S if hours * 3600 / step <= _MOST_STEPS), _STEPS_S[-1])


@dataclass(frozen=True, slots=True)
class Moment:
    """One step of the charts."""

    time: str
    at_home: int  # answered by local backends
    elsewhere: int
    failed: int
    latency: tuple[float | None, float | None]  # p50 and p95, ms
    ttfb: tuple[float | None, float | None]


def moments(steps: Steps, observations: Observations, hours: float, now_ms: int) -> list[Moment]:
    """Every step of the window, also those in which nothing happened."""
    step = step_s(hours)
    now_s = now_ms // 1000
    first = int(now_s - hours * 3600) // step * step
    return [_moment(at, steps.get(at, {}), observations, hours) for at in range(first, now_s + 1, step)]


def _moment(at_s: int, models: Mapping[tuple[str, str], Aggregate], observations: Observations, hours: float) -> Moment:
    total = merged(models.values())
    local = (calls for name, calls in models.items() if is_local(Target(*name), observations))
    at_home = merged(local).successes
    return Moment(
        time=time.strftime("%H:%M" if hours <= 24 else "%a %H:%M" if hours <= 168 else "%d %b", time.localtime(at_s)),
        at_home=at_home,
        elsewhere=total.successes - at_home,
        failed=total.calls - total.cancelled - total.successes,
        latency=(total.latency.percentile(0.5), total.latency.percentile(0.95)),
        ttfb=(total.ttfb.percentile(0.5), total.ttfb.percentile(0.95)),
    )


def charts(shown: Sequence[Moment]) -> tuple[Chart, ...]:
    times = [moment.time for moment in shown]
    calls = (
        Series("local", "home", [moment.at_home for moment in shown]),
        Series("not local", "away", [moment.elsewhere for moment in shown]),
        Series("failed", "bad", [moment.failed for moment in shown]),
    )
    return (
        bars("Calls: who answered", calls, times),
        lines("Latency of whole calls", _percentiles([moment.latency for moment in shown]), times),
        lines("Time to the first byte of streams", _percentiles([moment.ttfb for moment in shown]), times),
    )


def _percentiles(pairs: Sequence[tuple[float | None, float | None]]) -> tuple[Series, Series]:
    return Series("p50", "p50", [pair[0] for pair in pairs]), Series("p95", "p95", [pair[1] for pair in pairs])


# --- backends -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What is known of a backend now, beside what the database says."""

    cooling: int = 0  # workers that leave it alone
    workers: int = 1
    answers: bool | None = None  # to the question for its models; None = it is not asked
    key_missing: str = ""  # the variable that is not set


def state(live: Live) -> tuple[str, str]:
    """Whether calls can go there, in two words, and how good that is: good, bad, plain."""
    if live.key_missing:
        return "key missing", "bad"
    if live.answers is False:
        return "does not answer", "bad"
    if live.cooling:
        return "cooling down", "bad"
    return ("up", "good") if live.answers else ("ready", "plain")


def circuit(live: Live) -> str:
    if not live.cooling:
        return "circuit closed"
    return "circuit open" + (f" in {live.cooling} of {live.workers} workers" if live.workers > 1 else "")


def to_do(live: Live, endpoint: str) -> str:
    """What would mend it; "" when all is well."""
    if live.key_missing:
        return f"set {live.key_missing} for the router’s process and start it again."
    return f"nothing answers at {endpoint}. Is it running?" if live.answers is False else ""


def age(ms: float) -> str:
    """`now`, `12 s`, `5 min`, `3 h`, `2 d`"""
    for limit, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")):
        if ms >= limit:
            return f"{ms / limit:.0f} {unit}"
    return "now"


# --- lines of the tables ---


NO_CALLS = metrics_summary({Key("", "", "none", Kind.LIVE): Aggregate()}, 24, {})["routes"][0]


def tiles(summary: JsonObject) -> list[dict[str, str]]:
    """The figures on top: name, value, note."""
    total, savings = summary["total"], summary["savings"]
    bad = f"{total['errors']:,} failed, {total['cancelled']:,} left by the client"
    shown = [
        ("Requests", f"{total['requests']:,}", f"{total['calls']:,} calls to backends"),
        ("Answered well", percent(total["success_rate"]), bad),
        ("Kept local", percent(total["local_share"]), "of the answers"),
        ("Fallback", percent(total["fallback_rate"]), "of the calls stood in for a failed backend"),
        (
            "Spill",
            percent(total["spill_rate"]),
            "of the requests: the route’s first backend was too slow or cooling down",
        ),
        ("Latency", ms(total["p50_latency"]), f"p50: half took no longer; p95\u00a0{ms(total['p95_latency'])}"),
        ("First byte", ms(total["p50_ttfb"]), f"p50 of streams; p95\u00a0{ms(total['p95_ttfb'])}"),
        ("Tokens", *_tokens(total)),
        ("Cost", *_cost(total)),
    ]
    if refusals := summary["refusals"]:
        codes = ", ".join(f"{number:,} {code}" for code, number in refusals.items())
        shown.append(("Refused", f"{sum(refusals.values()):,}", f"before any call: {codes}"))
    if savings:
        shown.append(
            (
                "Saved",
                usd(savings["saved_usd"]) if total["calls"] else "–",
                f"against {savings['against']}"
                + (", no price: " + ", ".join(savings["unpriced"]) if savings["unpriced"] else ""),
            )
        )
    return [dict(zip(("name", "value", "note"), one, strict=True)) for one in shown]


def _tokens(total: JsonObject) -> tuple[str, str]:
    counted, answers = total["counted_calls"], total["calls"] - total["errors"]
    if not counted and answers:
        return "unknown", "no backend told them"
    note = f"in / out, told for {counted:,} of {answers:,} answers" if counted < answers else "in / out"
    return f"{count(total['input_tokens'])} / {count(total['output_tokens'])}", note


def _cost(total: JsonObject) -> tuple[str, str]:
    """A backend without a price matters only where a call of it told tokens."""
    without = ", ".join(total["unpriced"])
    note = f"known part; {without}: no price" if without else "as far as tokens are known"
    return usd(total["cost_usd"]) if total["calls"] else "–", note


_WHY = {
    "pin": "the client named it",
    "continuation": "goes on there",
    "spill": "the first is too slow now",
    "fit": "the first is too small",
    "cooling": "{} is cooling down",
    "fallback": "{} failed",
    "shadow": "mirrored for the A/B trial",
    "probe": "mirrored to measure it",
}


_LOOKS: Mapping[str, str] = {Outcome.OK: "good", Outcome.ERROR: "bad"}


def call_line(call: ShownCall, now_ms: int) -> JsonDict:
    """Return a call as the page shows it.  The row holds no text of a prompt, and so the page has none."""
    outcome = call.outcome or (Outcome.OK if call.ok else Outcome.ERROR)
    tokens = (call.input_tokens, call.output_tokens)
    return {
        "ago": age(now_ms - call.ts),
        "backend": call.backend,
        "model": call.model or "",
        "outcome": f"{outcome}: {call.error}" if call.error and outcome == Outcome.ERROR else outcome,
        "look": _LOOKS.get(outcome, "plain"),
        "route": call.route or "",
        "tags": ", ".join(tag for tag in (call.task, call.complexity) if tag),
        "latency": call.latency_ms,
        "ttfb": call.ttfb_ms,
        "tokens": "–" if tokens == (None, None) else " / ".join("–" if n is None else f"{n:,}" for n in tokens),
        "why": _WHY.get(call.reason or "", "").format(call.fallback_for or "the first"),
    }


# --- words --------------------------------------------------------------------------------------


def percent(share: float | None) -> str:
    """`97.4 %`; a share that is not quite 0 or 1 does not look as if it were."""
    if share is None:
        return "–"
    text = f"{share * 100:.1f}".removesuffix(".0")
    return f"{'99.9' if text == '100' and share < 1 else '0.1' if text == '0' and share > 0 else text}\u00a0%"


def usd(value: float | None) -> str:
    return "unknown" if value is None else words.usd(value)


def ms(value: float | None) -> str:
    """With a space at which no line is broken."""
    return "–" if value is None else (words.duration(value) if value else "0 ms").replace(" ", "\u00a0")
