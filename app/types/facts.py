"""The facts that a server tells about its models, and the state of its places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

CAPABILITIES = ("completion", "tools", "vision", "thinking", "embedding", "insert")  # Ollama's words
SLOW_ABOVE, SLOW_BELOW = 1.2, 0.8  # times the budget of a route: a target becomes slow, and fast again


@lru_cache(maxsize=2048)
def model_key(model: str) -> str:
    """Return the normal form of a model's name at an Ollama, where `X`, `x:latest` and `library/x` are all the same.
    A digest stays a part of the name.  Facts: https://github.com/ollama/ollama/blob/main/types/model/name.go."""
    name, at, digest = model.strip().lower().partition("@")
    name = name.removeprefix("registry.ollama.ai/").removeprefix("library/")
    tagged = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
    return f"{tagged}{at}{digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The facts about one model that decisions depend on; None = the server does not tell."""

    loaded: bool | None = None  # None: the server does not load models on demand
    window: int | None = None  # tokens; in force, unless `loaded` is False: then it is a belief
    refuses: bool = False  # it answers a prompt that is too long with an error; False: it may cut the prompt
    capabilities: frozenset[str] | None = None  # of CAPABILITIES
    size_bytes: int | None = None  # what a load reads
    trained: int | None = None  # tokens; the window that the model was trained for, for the operator
    places: int | None = None  # calls that the server runs at the same time


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    """The state of one loaded model, for the operator.  It changes with each request, and no decision depends on it."""

    size_bytes: int | None = None
    gpu_bytes: int | None = None  # the part of the size that is on the GPU
    expires_at: float | None = None  # Unix s; None = it stays
    window: int | None = None  # tokens


@dataclass(frozen=True, slots=True)
class Turnover:
    """Count the loads and evictions of a model that this worker has seen since it started."""

    loads: int = 0
    evictions: int = 0


@dataclass(frozen=True, slots=True)
class Queue:
    """The state of places that are all taken.  Places with a free one are absent from the observations."""

    places: int  # under maxConcurrency
    waiting: tuple[int, int, int]  # calls that wait, by lane, in the order of types.Lane
    model: str = ""  # the model (model_key) of the latest call that got a place


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """The live medians in ms, by (backend, model).  A call is a wait for its place, then a load, then warm work."""

    warm_ms: Mapping[tuple[str, str], float] = field(default_factory=dict)  # to the first byte of a stream, else whole
    load_ms: Mapping[tuple[str, str], float] = field(default_factory=dict)
    hold_ms: Mapping[tuple[str, str], float] = field(default_factory=dict)  # a place is taken for so long, warm
    # (route, backend, model) -> the warm median exceeds the budget of the route.  It is set above SLOW_ABOVE times the
    # budget and cleared below SLOW_BELOW; absent = it was in neither range.
    slow: Mapping[tuple[str, str, str], bool] = field(default_factory=dict)
