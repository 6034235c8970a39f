"""The vocabulary: every value that crosses a module boundary.  Read this first.

Everything here is frozen.  Units are suffixes (`_ms`, `_s`, `_bytes`); `ts_ms` is Unix time in
milliseconds.  Nothing here does I/O, and nothing here imports another package of ours.
"""

from app.types.aliases import Environ, JsonDict, JsonObject
from app.types.decision import Basis, Decision, DryRun, Estimate, Observations, Plan, PlannedCall, Step
from app.types.policy import (
    PINS,
    UNKNOWN_MODELS,
    ABTest,
    BackendConfig,
    Condition,
    Cuts,
    Policy,
    Price,
    Range,
    ResponsesRules,
    Route,
    SensitivityRules,
    Timeouts,
)
from app.types.record import CallRecord, Egress, Ending, Times, Usage, Why
from app.types.reply import Buffered, Chunks, Outgoing, Reply, Streamed
from app.types.request import Body, ChatRequest, Dialect, Loading, Request, StoredRequest, Target
from app.types.states import CircuitState, Kind, Operation, Outcome, Reason, Sensitivity, Wire
from app.types.tags import (
    COMPLEXITIES,
    FAMILIES,
    MODALITIES,
    SENSITIVITIES,
    TASKS,
    Classification,
    Evidence,
    Sign,
)

__all__ = [
    "COMPLEXITIES",
    "FAMILIES",
    "MODALITIES",
    "PINS",
    "SENSITIVITIES",
    "TASKS",
    "UNKNOWN_MODELS",
    "ABTest",
    "BackendConfig",
    "Basis",
    "Body",
    "Buffered",
    "CallRecord",
    "ChatRequest",
    "Chunks",
    "CircuitState",
    "Classification",
    "Condition",
    "Cuts",
    "Decision",
    "Dialect",
    "DryRun",
    "Egress",
    "Ending",
    "Environ",
    "Estimate",
    "Evidence",
    "JsonDict",
    "JsonObject",
    "Kind",
    "Loading",
    "Observations",
    "Operation",
    "Outcome",
    "Outgoing",
    "Plan",
    "PlannedCall",
    "Policy",
    "Price",
    "Range",
    "Reason",
    "Reply",
    "Request",
    "ResponsesRules",
    "Route",
    "Sensitivity",
    "SensitivityRules",
    "Sign",
    "Step",
    "StoredRequest",
    "Streamed",
    "Target",
    "Timeouts",
    "Times",
    "Usage",
    "Why",
    "Wire",
]
