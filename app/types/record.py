"""The record of a finished call."""

from __future__ import annotations

from dataclasses import dataclass

from app.types.decision import Basis
from app.types.states import Kind, Outcome, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """One finished call to one target.  Metrics, circuits, medians, A/B and cost are made from it alone."""

    request_id: str
    ts_ms: int  # when the call ended
    kind: Kind
    backend: str
    model: str
    route: str
    surface: str
    stream: bool
    latency_ms: int  # the whole call
    ttfb_ms: int | None  # to the first byte of content; None when none came
    outcome: Outcome
    error: str | None = None  # short kind: timeout, refused, http_503 …
    reason: Reason = Reason.ROUTE
    fallback_for: str | None = None  # the backend that failed or cools down, for which this call stood in
    destination: str | None = None  # host:port of a target that is not local, or that runs its model
    sent_bytes: int | None = None  # size of the body that was sent; None when it came to nothing before
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None  # None = unknown
    finish: str | None = None  # why the answer ended, in the backend's word: stop, length, content_filter …
    answer_chars: int | None = None  # length of the answer: text and tool arguments; None = there is no answer
    live_ts_ms: int | None = None  # `ts_ms` of the live call that a shadow call mirrors
    task: str | None = None  # these eight: the tags of the request; None: nothing was asked of a model
    complexity: str | None = None
    sensitivity: str | None = None
    modality: str | None = None
    family: str | None = None
    tokens: int | None = None
    difficulty: float | None = None
    confidence: float | None = None
    sensitivity_reason: str | None = None  # what made the request private; None = it is not
    basis: Basis | None = None  # of the decision, on the first call of a request
    backend_failed: bool = False  # the backend's fault: counts towards its circuit
    retry_after_s: float | None = None
