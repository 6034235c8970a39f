"""GET /v1/metrics, /metrics, /v1/ab, /v1/egress: what operators and Prometheus read, of all workers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import chain

from flask import Blueprint, Response, jsonify
from flask import request as http

from app.errors import RouterError
from app.metrics.prometheus import Snapshot, exposition
from app.metrics.summary import ab_report, egress_text, metrics_summary, overview, window_hours
from app.runtime import WORKER_STALE_MS, Runtime
from app.storage import StoreError, now_ms
from app.web import errors
from app.web.answers import runtime

blueprint = Blueprint("metrics", __name__)

_HOUR_MS = 3_600_000
log = logging.getLogger("llr.metrics")


@blueprint.errorhandler(StoreError)
def _unreadable(error: StoreError) -> Response:
    text = f"The metrics database cannot be read now: {error}"
    return errors.render(RouterError(text, status=503, code="metrics_unavailable"))


@blueprint.get("/v1/metrics")
def summary() -> Response:
    rt, hours = runtime(), window_hours(http.args.get("hours"))
    return jsonify(rt.read(_summary, rt, hours))


@blueprint.get("/v1/ab")
def ab() -> Response:
    rt, hours = runtime(), window_hours(http.args.get("hours"))
    return jsonify(rt.read(_trial, rt, hours))


@blueprint.get("/v1/egress")
def egress() -> Response:
    rt, hours = runtime(), window_hours(http.args.get("hours"))
    pages, source = rt.store.egress(_since(hours)), rt.read(rt.store.source)
    first = rt.read(next, pages)  # while an error can still be told
    pieces = egress_text(chain([first], pages), hours, source)
    return Response(_read_on(rt, pieces), mimetype="application/json")


@blueprint.get("/metrics")
def prometheus() -> Response:
    rt = runtime()
    return Response(
        rt.read(_exposition, rt), mimetype="text/plain", content_type="text/plain; version=0.0.4; charset=utf-8"
    )


def _read_on(rt: Runtime, pieces: Iterator[str]) -> Iterator[str]:
    """The pieces, each made beside the event loop.  When the database fails the document is left without its end."""
    try:
        while piece := rt.read(next, pieces, ""):
            yield piece
    except StoreError as error:
        log.error("a report was cut off: %s", error)


def _summary(rt: Runtime, hours: float) -> dict[str, object]:
    aggregates = rt.store.aggregates(_since(hours))
    extra = {**rt.store.source().document(), **overview(aggregates, rt.policy, rt.observations())}
    counts = {"refusals": rt.store.refusals(hours), "rows_dropped": rt.store.dropped()}
    return metrics_summary(aggregates, hours, {**extra, **counts})


def _trial(rt: Runtime, hours: float) -> dict[str, object]:
    report = ab_report(rt.store.pairs(_since(hours)), rt.policy.ab, hours, rt.policy.echoes)
    return rt.store.source().document() | report


def _exposition(rt: Runtime) -> bytes:
    store = rt.store
    last_day, workers = store.aggregates(_since(24)), store.workers(now_ms(), WORKER_STALE_MS)
    return exposition(Snapshot(store.totals(), last_day, workers, store.dropped(), store.refusals()))


def _since(hours: float) -> int:
    return now_ms() - int(hours * _HOUR_MS)
