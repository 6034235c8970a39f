"""Decide for a request for a stored response: it goes to the backend that stores it.  Pure."""

from __future__ import annotations

from app.errors import NoEligibleBackend
from app.routing.locality import is_local
from app.types import Decision, Observations, Reason, Step, StoredRequest


def decide_stored(request: StoredRequest, observations: Observations) -> Decision:
    """Return the only possible decision.  Raise NoEligibleBackend when the request is private and the backend is not
    local."""
    keeper = request.keeper
    if request.private and not is_local(keeper, observations):
        raise NoEligibleBackend(
            f"The request is private, and the backend that keeps this response, {keeper.backend!r}, is not local."
        )
    return Decision(
        route="stored",
        targets=(keeper,),
        trace=(Step("match", f"kept by {keeper.backend}: no other can answer"),),
        primary=keeper.backend,
        reason=Reason.CONTINUATION,
        private=request.private,
        private_because=request.private_because,
    )
