"""Find the facts about the model of a target.  Pure."""

from __future__ import annotations

from app.routing.locality import model_key
from app.types import ModelFacts, Observations, Target

NEEDS = ("completion", "tools", "vision")  # the capabilities that a request can need
_UNKNOWN = ModelFacts()


def model_facts(target: Target, observations: Observations) -> ModelFacts:
    """Return the facts that the server has told about the target's model.  A digest in the name hides no facts."""
    models = observations.facts.get(target.backend)
    if not models or not target.model:
        return _UNKNOWN
    key = model_key(target.model)
    return models.get(key) or models.get(key.partition("@")[0], _UNKNOWN)


def relevant_facts(facts: ModelFacts) -> ModelFacts:
    """Return facts that lead to the same decisions, with as few values as possible, for storage."""
    has_all = not facts.capabilities or facts.capabilities.issuperset(NEEDS)
    is_cold = facts.loaded is False
    return ModelFacts(
        loaded=False if is_cold else None,
        window=facts.window,
        refuses=facts.refuses and facts.window is not None,
        capabilities=None if has_all else facts.capabilities,
        size_bytes=facts.size_bytes if is_cold else None,
    )
