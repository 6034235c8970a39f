"""Serve GET /v1/metrics, /metrics, /v1/ab and /v1/egress: reports on all workers for operators and Prometheus."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import TypeVar

from werkzeug import Request

from app.errors import RouterError
from app.metrics.egress import ledger_text
from app.metrics.prometheus import Snapshot, exposition
from app.metrics.report import read_summary
from app.metrics.servers import servers
from app.metrics.summary import ab_report, window_hours
from app.services import Services
from app.storage import StoreError, now_ms
from app.types import Environ, JsonDict, JsonObject
from app.web.response import JSON, Response, json_response
from app.web.views import Blueprint

blueprint = Blueprint("metrics", __name__)

_HOUR_MS = 3_600_000
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
log = logging.getLogger("llr.metrics")
Result = TypeVar("Result")
Workers = Mapping[str, JsonObject]


@blueprint.view("GET", "/v1/metrics")
def summary(environ: Environ, services: Services) -> Response:
    return json_response(_read(services, _summary, services, _workers(services), _hours(environ)))


@blueprint.view("GET", "/v1/ab")
def ab(environ: Environ, services: Services) -> Response:
    return json_response(_read(services, _trial, services, _hours(environ)))


@blueprint.view("GET", "/v1/egress")
def egress(environ: Environ, services: Services) -> Response:
    hours = _hours(environ)
    pages, source = services.store.egress(_since(hours)), _read(services, services.store.source)
    first = _read(services, next, pages)  # before the head is sent, so that the client can still get an error
    pieces = ledger_text(chain([first], pages), hours, source)
    return Response(200, {"Content-Type": JSON}, _read_on(services, pieces))


@blueprint.view("GET", "/metrics")
def prometheus(_environ: Environ, services: Services) -> Response:
    return Response(200, {"Content-Type": _EXPOSITION}, _read(services, _exposition, services, _workers(services)))


def _hours(environ: Environ) -> float:
    """Return the window of a request in hours.  Raise RequestError."""
    return window_hours(Request(environ).args.get("hours"))


def _read(services: Services, query: Callable[..., Result], *arguments: object) -> Result:
    """Return the result of a query, which runs in a worker thread.  Raise RouterError when the database cannot be
    read."""
    result: Result = _available(services.read, query, *arguments)
    return result


def _workers(services: Services) -> Workers:
    """Return the reports of all workers.  Raise RouterError when the database cannot be read."""
    return _available(services.workers)


def _available(query: Callable[..., Result], *arguments: object) -> Result:
    try:
        result: Result = query(*arguments)
    except StoreError as error:
        text = f"The metrics database cannot be read now: {error}"
        raise RouterError(text, status=503, code="metrics_unavailable") from None
    return result


def _read_on(services: Services, pieces: Iterator[str]) -> Iterator[bytes]:
    """Yield the pieces; each is read in a worker thread.  When the database fails, the document has no end."""
    try:
        while piece := services.read(next, pieces, ""):
            yield piece.encode()
    except StoreError as error:
        log.error("a report was cut off: %s", error)


def _summary(services: Services, workers: Workers, hours: float) -> JsonDict:
    observations = services.beliefs.observations()
    return read_summary(services.store, services.policy, observations, workers, hours, now_ms())[0]


def _trial(services: Services, hours: float) -> JsonDict:
    report = ab_report(services.store.pairs(_since(hours)), services.policy.ab, hours, services.policy.echoes)
    return {**services.store.source().document(), **report}


def _exposition(services: Services, workers: Workers) -> bytes:
    """Return the text for Prometheus.  Incomplete totals are left out: Prometheus would take their rise for traffic,
    and a value below that of an older version for a restart."""
    store = services.store
    unsummed = store.unsummed()  # read first: when it is 0, the totals are complete
    last_day = store.window(_since(24))
    return exposition(
        Snapshot(
            totals={} if unsummed else store.totals(),
            last_day=last_day.aggregates if last_day.summed.share == 1 else {},
            workers=workers,
            servers=servers(services.policy.backends, list(workers.values()), now_ms()),
            dropped=store.dropped(),
            refusals=store.refusals(),
            unsummed=unsummed,
        )
    )


def _since(hours: float) -> int:
    return now_ms() - int(hours * _HOUR_MS)
