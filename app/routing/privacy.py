"""Keep a private request from every target that is not local.  Pure."""

from __future__ import annotations

from app.errors import NoEligibleBackend
from app.routing.choice import Choice, quote
from app.routing.locality import Verdict, judge_target
from app.types import ChatRequest


def privacy(choice: Choice) -> None:
    """Drop the targets of a private request that are not local.  Raise NoEligibleBackend when none is left."""
    if not choice.private:
        choice.note("privacy", "not private: every target may be used")
        return
    local_targets = []
    for target in choice.targets:
        verdict = judge_target(target, choice.observations)
        if verdict.local is False:
            choice.drop("privacy", target, not_for_private(verdict))
            continue
        if verdict.local is None:
            choice.note("privacy", f"{target.backend} {verdict.reason}: it is asked just before the call")
        local_targets.append(target)
    choice.targets = tuple(local_targets)
    if not local_targets:
        raise NoEligibleBackend(_nothing_local(choice))
    choice.note("privacy", "private: only local targets are left")


def not_for_private(verdict: Verdict) -> str:
    return f"the request is private and it {verdict.reason}"


def cause(request: ChatRequest, header: str) -> str:
    """Return what made the request private, as a part of a sentence."""
    causes = {"header": header, "conversation": "the conversation that it continues"}
    return causes.get(request.sensitivity_reason, request.sensitivity_reason)


def _nothing_local(choice: Choice) -> str:
    """Return the error message: what made the request private, what the client named, and what to do."""
    request = choice.request
    private = f"The request is private (because of {cause(request, 'the header X-LLR-Sensitivity')})"
    if request.continues:
        keeper = repr(request.continues.backend)
        return (
            f"{private}, and the backend that keeps its conversation, {keeper}, is not local. "
            "Send the whole conversation as `input`, without `previous_response_id`."
        )
    remedy = "Give the policy a route whose backend is local, or name a local model."
    if choice.pin_refused:
        pinned = f"the model that it names, {quote(request.model)}, is not local"
        return f"{private}, {pinned}, and no route of the policy has a local backend. {remedy}"
    return f"{private} and no local backend may serve it. {remedy}"
