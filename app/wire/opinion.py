"""Make the request for a second opinion: another answer to the same question."""

from __future__ import annotations

import dataclasses

from app.types import ChatRequest, JsonDict, JsonObject, Wire
from app.wire.chat.members import WithMembers

# Another sample of the same model must be able to differ from the first answer.
_LEAST_SAMPLING = {"temperature": 0.6, "top_p": 0.9, "top_k": 20}
_USUAL_TEMPERATURE = 0.7  # of a sample, when the client sends none
_MOST_SEED = 2**31 - 1  # servers read at least this range


def opinion_of(request: ChatRequest, *, sample: bool) -> ChatRequest:
    """Return the request for a second opinion on `request`.  It is a chat request for a whole reply with one choice,
    which no server stores and which runs no tool.  `sample`: the same model is asked again, with more randomness and
    another seed."""
    chat = request.body.chat
    members: JsonDict = {}
    if chat.get("n") not in (None, 1):
        members["n"] = 1
    if chat.get("store"):
        members["store"] = False
    if sample:
        members |= _sampling(chat)
    body = WithMembers(request.body, members, Wire.CHAT)
    return dataclasses.replace(request, body=body, stream=False, wants_logprobs=False)


def _sampling(chat: JsonObject) -> JsonDict:
    sampling: JsonDict = {"temperature": _USUAL_TEMPERATURE}
    for name, least in _LEAST_SAMPLING.items():
        value = chat.get(name)
        if isinstance(value, (int, float)) and type(value) is not bool:
            sampling[name] = value if value >= least or (name == "top_k" and value <= 0) else least
    seed = chat.get("seed")
    sampling["seed"] = (seed + 1) % _MOST_SEED if type(seed) is int else 1
    return sampling
