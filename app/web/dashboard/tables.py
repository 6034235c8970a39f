"""Make the tiles and the rows of the tables on the page.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from app.metrics.aggregates import Aggregate, Key
from app.metrics.queries import ShownCall
from app.metrics.servers import is_described
from app.metrics.summary import metrics_summary
from app.routing.expected import expected_ms
from app.routing.locality import is_local
from app.routing.names import model_for
from app.types import JsonDict, JsonObject, Kind, Observations, Outcome, Policy, Reason, Target, Verified
from app.web.dashboard.charts import count
from app.web.dashboard.formats import NO_BREAK, ms, percent, size, usd
from app.words import age

NO_CALLS = metrics_summary({Key("", "", "none", Kind.LIVE): Aggregate()}, 24, {})["routes"][0]

# --- tiles --------------------------------------------------------------------------------------


def tiles(summary: JsonObject) -> list[dict[str, str]]:
    """Return the tiles at the top of the page: name, value, note."""
    total, savings = summary["total"], summary["savings"]
    p95, first_p95 = ms(total["p95_latency"]), ms(total["p95_ttfb"])
    rows = [
        ("Requests", f"{total['requests']:,}", f"{total['calls']:,} calls to backends"),
        (
            "Success",
            percent(total["success_rate"]),
            f"{total['errors']:,} failed, {total['cancelled']:,} cancelled by the client",
        ),
        ("Local", percent(total["local_share"]), "of the replies that were sent"),
        ("Fallback", percent(total["fallback_rate"]), "of the calls replaced a failed backend"),
        ("Spill", percent(total["spill_rate"]), "of the requests skipped a slow or unhealthy backend"),
        ("Latency", ms(total["p50_latency"]), f"p50 of the calls; p95{NO_BREAK}{p95}"),
        ("First byte", ms(total["p50_ttfb"]), f"p50 of the streams; p95{NO_BREAK}{first_p95}"),
        ("Tokens", *_tokens(total)),
        ("Cost", *_cost(total)),
    ]
    if refusals := summary["refusals"]:
        codes = ", ".join(f"{number:,} {code}" for code, number in refusals.items())
        rows.append(("Refused", f"{sum(refusals.values()):,}", f"before any call: {codes}"))
    if savings:
        unpriced = f"; no price: {', '.join(savings['unpriced'])}" if savings["unpriced"] else ""
        saved = usd(savings["saved_usd"]) if total["calls"] else "–"
        rows.append(("Saved", saved, f"against {savings['against']}{unpriced}"))
    return [dict(zip(("name", "value", "note"), row, strict=True)) for row in rows]


def _tokens(total: JsonObject) -> tuple[str, str]:
    counted, replies = total["counted_calls"], total["calls"] - total["errors"]
    if not counted and replies:
        return "unknown", "no backend reported them"
    note = f"in / out, reported for {counted:,} of {replies:,} replies" if counted < replies else "in / out"
    return f"{count(total['input_tokens'])} / {count(total['output_tokens'])}", note


def _cost(total: JsonObject) -> tuple[str, str]:
    """Return the cost and its note, which names the backends with tokens but without a price."""
    unpriced = ", ".join(total["unpriced"])
    note = f"the known part; no price: {unpriced}" if unpriced else "of the calls with known tokens"
    return usd(total["cost_usd"]) if total["calls"] else "–", note


# --- backends -----------------------------------------------------------------------------------

_NO_CALLS_NOW: JsonObject = {"in_flight": 0, "waiting": {}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Hold the current state of a backend, which the database does not have."""

    open_circuits: int = 0  # workers in which its circuit is open
    workers: int = 1
    replies: bool | None = None  # to the last question for its models; None = the router does not ask it
    missing_key: str = ""  # the variable that is not set


def state(health: Health) -> tuple[str, str]:
    """Return the state of a backend and its look: good, bad or plain."""
    if health.missing_key:
        return "key missing", "bad"
    if health.replies is False:
        return "down", "bad"
    if health.open_circuits:
        return "unhealthy", "bad"
    return ("up", "good") if health.replies else ("ready", "plain")


def circuit(health: Health) -> str:
    if not health.open_circuits:
        return "circuit closed"
    return "circuit open" + (f" in {health.open_circuits} of {health.workers} workers" if health.workers > 1 else "")


def remedy(health: Health, endpoint: str) -> str:
    """Return what the operator has to do, or ""."""
    if health.missing_key:
        return f"set {health.missing_key} for the router’s process and restart it."
    return f"there is no reply from {endpoint}: start the server." if health.replies is False else ""


def backend_rows(
    policy: Policy,
    observations: Observations,
    replies: Mapping[str, bool],
    missing_keys: Mapping[str, str],
    summary: JsonObject,
    workers: Mapping[str, JsonObject],
) -> Iterator[JsonDict]:
    """Yield the backends of the policy, then those that only the database has.  `workers` has the workers' reports."""
    sums = {entry["backend"]: entry for entry in summary["backends"]}
    servers = {server["backend"]: server for server in summary["servers"]}
    for name, config in policy.backends.items():
        server = servers.get(name, _NO_CALLS_NOW)
        health = Health(
            open_circuits=sum(report.get("circuit_open", {}).get(name, 0) for report in workers.values()),
            workers=max(1, len(workers)),
            replies=replies.get(name),
            missing_key=missing_keys.get(name, ""),
        )
        target = Target(name, model_for(config, "any", observations))
        label, look = state(health)
        yield {
            "name": name,
            "type": config.type,
            "local": is_local(target, observations),
            "remote": {model: host for model, host in observations.model_hosts.get(name, {}).items() if host},
            "state": label,
            "look": look,
            "circuit": circuit(health),
            "remedy": remedy(health, config.endpoint),
            "in_flight": server["in_flight"],
            "waiting": sum(server["waiting"].values()),
            "lanes": _lanes(server),
            "expected": expected_ms(target, config, observations),
            "sums": sums.pop(name, NO_CALLS),
        }
    for name, entry in sums.items():
        former = {"name": name, "type": "", "local": False, "state": "no longer in the policy", "look": "plain"}
        yield {**former, "circuit": "", "in_flight": 0, "waiting": 0, "expected": None, "sums": entry}


def _lanes(server: JsonObject) -> str:
    """Return the calls that wait, by lane: `1 interactive, 3 agent`."""
    return ", ".join(f"{number:,} {lane}" for lane, number in server["waiting"].items() if number)


# --- models -------------------------------------------------------------------------------------

_SMALL_WINDOW = 4096  # tokens: Ollama's default for small GPUs, too few for an agent or a file


def model_groups(servers: Iterable[JsonObject]) -> Iterator[JsonDict]:
    """Yield the servers that tell about their models: the name, the queue and the rows of the models."""
    for server in servers:
        rows = [row for row in server["models"] if is_described(row)]
        if rows:
            lanes = _lanes(server)
            queue = f"{sum(server['waiting'].values()):,} calls wait: {lanes}" if lanes else ""
            problems = [sentence for row in rows for sentence in _problems(row)]
            yield {
                "backend": server["backend"],
                "queue": queue,
                "rows": [_model_row(row) for row in rows],
                "problems": problems,
            }


def _problems(row: JsonObject) -> Iterator[str]:
    """Yield sentences about what makes the replies of a model poor or slow."""
    if _is_small(row):
        yield (
            f"{row['model']} reads {row['window']:,} tokens at most, although it was trained for {row['trained']:,}: "
            "it does not see a whole file."
        )
    if _is_split(row):
        yield f"{percent(1 - row['gpu_share'])} of {row['model']} is not on the GPU, so it is slow."


def _is_small(row: JsonObject) -> bool:
    return row["window"] is not None and row["window"] <= _SMALL_WINDOW < (row["trained"] or 0)


def _is_split(row: JsonObject) -> bool:
    return row["gpu_share"] is not None and 0 < row["gpu_share"] < 1


def _model_row(row: JsonObject) -> JsonDict:
    window, trained, share = row["window"], row["trained"], row["gpu_share"]
    return {
        "name": row["model"],
        "state": {True: "loaded", False: "not loaded", None: "–"}[row["loaded"]],
        "look": "good" if row["loaded"] else "plain",
        "until": _until(row["expires_in_s"]) if row["loaded"] else "",
        "window": "–" if window is None else f"{window:,}",
        "trained": "" if trained is None or trained == window else f"of {trained:,}",
        "is_small": _is_small(row),
        "size": size(row["size_bytes"]),
        "gpu": "" if share is None else f"{percent(share)} on the GPU",
        "is_split": _is_split(row),
        "expected": _expected(row["expected"]),
        "parts": _parts(row["expected"]),
        "loads": row["loads"],
        "evictions": row["evictions"],
        "abilities": ", ".join(word for word in row["capabilities"] or () if word != "completion"),
    }


def _until(expires_in_s: int | None) -> str:
    if expires_in_s is None:
        return "stays loaded"
    return f"unloads in {age(expires_in_s * 1000)}" if expires_in_s else "unloads now"


def _expected(parts: JsonObject) -> float | None:
    """Return the expected time of a call in ms; None while the warm time is unknown."""
    return None if parts.get("warm_ms") is None else sum(value or 0 for value in parts.values())


def _parts(parts: JsonObject) -> str:
    """Return the parts of the expected time, when there are several: `wait 4.9 s + load 5.8 s + warm 180 ms`."""
    named = [f"{name.removesuffix('_ms')} {ms(value)}" for name, value in parts.items() if value]
    return " + ".join(named) if len(named) > 1 or parts.get("warm_ms") is None else ""


# --- routes -------------------------------------------------------------------------------------

_OTHER_ROUTES = {"pin": "the backend that the client named", "continuation": "the backend that keeps the conversation"}


def route_rows(policy: Policy, summary: JsonObject) -> Iterator[JsonDict]:
    """Yield the routes of the policy, then those that only the database has."""
    sums = {entry["route"]: entry for entry in summary["routes"]}
    for route in policy.routes:
        targets = ", then ".join((route.backend, *route.fallbacks))
        yield {"name": route.label, "targets": targets, "sums": sums.pop(route.label, NO_CALLS)}
    for name, entry in sums.items():
        yield {"name": name, "targets": _OTHER_ROUTES.get(name, "no longer in the policy"), "sums": entry}


# --- answers judged -----------------------------------------------------------------------------


def judged_rows(report: JsonObject) -> Iterator[JsonDict]:
    """Yield the routes that judge answers, and their sum when there are several."""
    routes = report["routes"]
    for row in routes:
        yield _judged_row(row["route"], row)
    if len(routes) > 1:
        yield _judged_row("all", report["total"])


def _judged_row(name: str, row: JsonObject) -> JsonDict:
    limit, first = row.get("daily_share"), row["asked_first"]
    return {
        "name": name,
        "requests": row["requests"],
        "asked_first": first,
        "kept": f"{row['kept']:,}",
        "kept_share": percent(row["kept"] / first) if first else "",
        "escalated": f"{row['escalated']:,}",
        "escalated_share": percent(row["escalated_share"]) if first else "",
        "reasons": ", ".join(f"{number:,} {reason}" for reason, number in row["reasons"].items()),
        "released": row["released"],
        "observed": row["observed"],
        "average": row["avg_added_ms"],
        "p95": row["p95_added_ms"],
        "opinions": row["second_opinions"],
        "opinion_cost": usd(row["second_opinion_usd"]) if row["second_opinions"] else "",
        "saved": usd(row["saved_usd"]) if first else "–",
        "against": row.get("against") or "",
        "unpriced": ", ".join(row["unpriced"]),
        "limit": "" if limit is None else f"at most {percent(limit)} of a day’s requests",
    }


# --- A/B trial ----------------------------------------------------------------------------------


def quality_note(quality: JsonObject) -> str:
    """Return the end of a sentence about the answers of both backends; "" when none was judged."""
    if not quality["n"]:
        return ""
    agreement = "" if quality["agreement"] is None else f", agreement {quality['agreement']:.2f}"
    doubts = f"mean doubt {quality['doubt']:.2f}, that of the primary {quality['primaryDoubt']:.2f}"
    answers = "1 answer was" if quality["n"] == 1 else f"{quality['n']:,} answers were"
    return f"; {answers} judged: {doubts}{agreement}"


# --- calls --------------------------------------------------------------------------------------

_REASONS: Mapping[str, str] = {
    Reason.PIN: "the client named it",
    Reason.CONTINUATION: "it keeps the conversation",
    Reason.SPILL: "the first backend was too slow",
    Reason.QUEUE: "the queue of the first backend was too long",
    Reason.CAPABILITY: "the first backend's model lacks what the request needs",
    Reason.FIT: "the prompt was too long for the first backend",
    Reason.COOLING: "the circuit of {} was open",
    Reason.FALLBACK: "{} failed",
    Reason.SHADOW: "shadow call of the A/B trial",
    Reason.PROBE: "probe, to measure it",
    Reason.VERIFY: "second opinion",
    Reason.ESCALATED: "an earlier answer did not hold",
}
_VERDICTS: Mapping[str, str] = {
    Verified.KEPT: "its answer was kept",
    Verified.ESCALATED: "its answer was not sent",
    Verified.RELEASED: "its answer was sent before it was judged",
}
_LOOKS: Mapping[str, str] = {Outcome.OK: "good", Outcome.ERROR: "bad"}


def call_row(call: ShownCall, now_ms: int) -> JsonDict:
    """Return a call as the page shows it.  The row holds no text of a prompt, and so the page has none."""
    outcome = call.outcome or (Outcome.OK if call.ok else Outcome.ERROR)
    tokens = (call.input_tokens, call.output_tokens)
    reason = _REASONS.get(call.reason or "", "").format(call.fallback_for or "the first backend")
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
        "reason": "; ".join(filter(None, (reason, _verdict(call)))),
    }


def _verdict(call: ShownCall) -> str:
    """Return the result of the judgement of a call's answer, and what decided it; "" when it was not held."""
    verdict = _VERDICTS.get(call.verified or "", "")
    return f"{verdict} ({call.verified_reason})" if verdict and call.verified_reason else verdict
