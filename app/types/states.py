"""The states that rows, reports and headers name.  Their values are stored and sent: they never change."""

from enum import StrEnum


class Wire(StrEnum):
    """The form of a body: the API whose documents it holds."""

    CHAT = "chat"
    RESPONSES = "responses"
    MESSAGES = "messages"
    OLLAMA = "ollama"  # only of backends


class Operation(StrEnum):
    """The kind of work that a backend does."""

    CHAT = "chat"  # to reply to a prompt, in any wire form
    STORED = "stored"  # to return or delete a response that it keeps


class Kind(StrEnum):
    """The purpose of a call."""

    LIVE = "live"  # a client waits for it
    SHADOW = "shadow"  # a sample for the A/B trial
    PROBE = "probe"  # to measure a local backend that was passed over
    STORED = "stored"  # a client waits for a response that the backend keeps
    VERIFY = "verify"  # a second opinion, to judge the answer of a live call


class Lane(StrEnum):
    """The priority of a request while it waits for a place, the first one first."""

    INTERACTIVE = "interactive"  # a person waits
    AGENT = "agent"  # a program that works for a person waits
    BACKGROUND = "background"  # no person waits


class Outcome(StrEnum):
    """The end of a call."""

    OK = "ok"
    ERROR = "error"
    CANCELLED = "cancelled"  # the client disconnected, or the worker stopped


class Reason(StrEnum):
    """The reason why a call went to its backend."""

    ROUTE = "route"
    PIN = "pin"
    CONTINUATION = "continuation"  # the backend keeps the conversation
    CAPABILITY = "capability"  # the first target's model lacks what the request needs: tools, vision
    FIT = "fit"  # the first target's context window is too small
    QUEUE = "queue"  # the first target's queue is too long, or its server asked for no calls
    SPILL = "spill"  # the first target is expected to miss the latency budget
    COOLING = "cooling"  # the circuit of the first target is open
    FALLBACK = "fallback"  # an earlier target failed
    SHADOW = "shadow"
    PROBE = "probe"
    VERIFY = "verify"  # a second opinion
    ESCALATED = "escalated"  # the answer of an earlier target did not hold


class Verified(StrEnum):
    """The result of the judgement of an answer that a route with `verify` held."""

    KEPT = "kept"
    ESCALATED = "escalated"  # it was not sent; another target was asked
    RELEASED = "released"  # it was sent before it was complete, because it could be held no longer
    OBSERVED = "observed"  # it was sent as it came, and only its structure was judged


class CircuitState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"  # one trial call decides


class Sensitivity(StrEnum):
    NORMAL = "normal"
    HIGH = "high"  # the request is private: only local targets may get it
