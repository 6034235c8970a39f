"""The request that is sent to a backend, and the reply that comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from app.types.aliases import JsonObject
from app.types.decision import Decision, Step
from app.types.record import Verdict
from app.types.request import ChatRequest, Target
from app.types.states import Operation, Wire


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One request as it is sent to one target."""

    path: str
    body: bytes  # empty: none is sent
    wire: Wire = Wire.CHAT  # the form of the body
    method: str = "POST"
    operation: Operation = Operation.CHAT
    headers: Mapping[str, str] = field(default_factory=dict)  # of the client, that the backend gets too
    dropped: tuple[str, ...] = ()  # members of the client's body for which the backend's API has no place
    logprobs: bool = False  # the router asks for log-probabilities, and takes them out of the reply
    other: Callable[[], Outgoing] | None = None  # the request for another API, when the server lacks the path

    def form(self, request: ChatRequest) -> str:
        """Return what became of the client's body: native, translated or passed_on."""
        if self.wire is not request.wire:
            return "translated"
        return "passed_on" if self.wire is Wire.CHAT else "native"


class Chunks(Protocol):
    """The bytes of a stream as they come.  Iterating raises StreamInterrupted when the stream breaks."""

    failure: str | None  # the short kind of what broke the stream; None while it is whole

    def __iter__(self) -> Iterator[bytes]: ...

    def __next__(self) -> bytes: ...

    def close(self) -> None:
        """Close the connection to the backend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Routed:
    """Hold the target that a reply came from, and how it was chosen."""

    target: Target
    decision: Decision
    wire: Wire  # the form in which the backend sent it
    fallback_for: str | None = None
    failed: str = ""  # the calls that failed before this one: `local:refused,spare:http_503`
    trace: tuple[Step, ...] = ()  # the decision's steps, and the failures since
    verdict: Verdict | None = None  # on the answer of the first target; None = it was not judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffered(_Routed):
    """A whole reply."""

    body: bytes  # as the backend sent it
    document: JsonObject  # the same, parsed


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed(_Routed):
    """A stream whose first event has arrived."""

    chunks: Chunks


Reply = Buffered | Streamed
