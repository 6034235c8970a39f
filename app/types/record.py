"""The record of a finished call, made of small parts.  Each part's fields are columns of the table `metrics`."""

from __future__ import annotations

from dataclasses import dataclass

from app.types.decision import Basis
from app.types.request import Target
from app.types.states import Kind, Lane, Outcome, Reason, Verified
from app.types.tags import Classification


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """The reasons for a call."""

    route: str
    reason: Reason
    fallback_for: str | None = None  # the backend that failed or whose circuit is open, and that this call replaces
    sensitivity_reason: str | None = None  # the reason why the request is private; None = it is not
    live_ts_ms: int | None = None  # `ts_ms` of the live call whose request a shadow call repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The end of a call, and how long it took."""

    ts_ms: int  # Unix time of the end
    latency_ms: int  # the whole call
    ttfb_ms: int | None = None  # to the first byte of content; None when none came
    wait_ms: int | None = None  # for a place; a part of the two above; None = it did not wait
    # For the model to load; a part of the two above.  0 = it had to load, and the time is not known; None = it was
    # loaded, or the server does not tell.
    load_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The way a call ended."""

    outcome: Outcome
    error: str | None = None  # short kind: timeout, refused, http_503 …
    finish: str | None = None  # the backend's word for the end of the reply: stop, length, content_filter …
    answer_chars: int | None = None  # length of the reply: text and tool arguments; None = there is no reply
    backend_failed: bool = False  # True: the circuit of the backend counts it
    retry_after_s: float | None = None
    busy: bool = False  # the server has no room for calls until then; it did not fail


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of a call and their price; None = unknown."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judgement of the answer of a call; None = it was not judged so."""

    verified: Verified | None = None
    doubt: float | None = None  # 0 to 1: how likely the answer is wrong
    fault: str | None = None  # of its structure: json, schema, tool, empty, cut, refusal, loop
    verified_reason: str | None = None  # the part of the judgement that decided: structure, confidence, agreement …
    agreement: float | None = None  # 0 to 1, with the second opinion; of a shadow call: with the live answer
    held_ms: int | None = None  # how much later the client got the answer, because it was held and judged
    live_doubt: float | None = None  # of a shadow call: the doubt of the live answer


@dataclass(frozen=True, slots=True)
class Egress:
    """The bytes that a call sent, and their destination."""

    sent_bytes: int | None = None  # size of the body; None when the call ended before it was sent
    destination: str | None = None  # host:port of a target that is not local, or that runs its model


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """One finished call to one target.  Metrics, circuits, medians, A/B and cost are made from it alone."""

    request_id: str
    kind: Kind
    surface: str
    stream: bool
    target: Target
    why: Why
    times: Times
    ending: Ending
    lane: Lane = Lane.INTERACTIVE
    usage: Usage = Usage()
    egress: Egress = Egress()
    verdict: Verdict = Verdict()
    tags: Classification | None = None  # None: nothing was asked of a model
    basis: Basis | None = None  # of the decision, on the first call of a request
