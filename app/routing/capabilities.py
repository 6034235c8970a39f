"""Drop the targets whose model lacks a capability that the request needs.  Pure."""

from __future__ import annotations

from app.errors import UnsupportedByModels
from app.routing.choice import Choice, target_name
from app.routing.model_facts import NEEDS, model_facts
from app.types import ChatRequest, Classification, Observations, Reason, Target

_CHAT = frozenset({"completion"})  # every chat; embedding models lack it


def capabilities(choice: Choice) -> None:
    """Drop the targets whose model lacks a capability.  A model whose capabilities are not known stays.  Raise
    UnsupportedByModels when no target is left."""
    if not choice.observations.facts:
        return
    lacks = {target: missing for target in choice.targets if (missing := _missing(target, choice))}
    if not lacks:
        return
    for target, missing in lacks.items():
        choice.drop("capabilities", target, f"its model lacks {missing}")
    choice.keep([target for target in choice.targets if target not in lacks], Reason.CAPABILITY)
    if not choice.targets:
        unable = "; ".join(f"{target_name(target)} does not support {missing}" for target, missing in lacks.items())
        raise UnsupportedByModels(
            f"No model that may serve this request has what it needs: {unable}. "
            "Name another model, or add one to the route."
        )


def needs_of(request: ChatRequest, tags: Classification) -> frozenset[str]:
    """Return the capabilities that a model must have to serve a request.

    Tools that the model must not call (`tool_choice: none`) are no need: Ollama's own API does not get them, and a
    server that refuses them leads to the next target."""
    chat, needs = request.body.chat, _CHAT
    if (chat.get("tools") and chat.get("tool_choice") != "none") or (
        chat.get("functions") and chat.get("function_call") != "none"
    ):
        needs |= {"tools"}
    return needs | {"vision"} if tags.modality == "image" else needs


def lacking(target: Target, needs: frozenset[str], observations: Observations) -> frozenset[str]:
    """Return the needs that the target's model is known to lack.  An empty list of a server means that it could not
    read the model, so nothing is known."""
    own = model_facts(target, observations).capabilities
    return needs - own if own else frozenset()


def _missing(target: Target, choice: Choice) -> str:
    """Return what the target's model lacks, for a message; "" for nothing."""
    lacks = lacking(target, choice.needs, choice.observations)
    if not lacks:
        return ""
    return "completion, so it cannot chat" if lacks >= _CHAT else " and ".join(sorted(lacks, key=NEEDS.index))
