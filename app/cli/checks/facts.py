"""Define the facts that the checks read, and the findings that they return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from app.metrics.queries import CallGroup, TimedPart
from app.routing.locality import Verdict, judge_config, judge_target
from app.routing.names import model_for
from app.settings import Settings
from app.types import BackendConfig, JsonObject, ModelFacts, Observations, Policy, Residency, Route, Target, Timings


@dataclass(frozen=True, slots=True)
class Finding:
    """Hold one problem and its fix.  `check` is its stable name; `where` is a backend, route, variable or file."""

    check: str
    where: str
    what: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """Hold the reply of a backend to the question for its models."""

    models: tuple[str, ...] = ()
    error: str = ""  # a message; "" = the backend replied
    kind: str = ""  # short kind of the error: refused, dns, timeout, http_401 …
    windows: Mapping[str, int] = field(default_factory=dict)  # model -> the tokens that the server runs it with
    facts: Mapping[str, ModelFacts] = field(default_factory=dict)  # by model_key
    residency: Mapping[str, Residency] = field(default_factory=dict)  # loaded model -> its state
    version: str = ""  # of the server; "" = it does not tell
    speaks_native: bool = False  # requests go to Ollama's own API, which refuses prompts that are too long
    gives_logprobs: bool = True  # log-probabilities of the tokens of replies
    model_hosts: Mapping[str, str] | None = None  # as in Observations; None = the server runs all models itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Hold all facts about a router, its backends, its database and its machine."""

    settings: Settings
    policy: Policy
    discoveries: Mapping[str, Discovery]  # by backend, without echo and without backends whose key is missing
    missing_keys: Mapping[str, str] = field(default_factory=dict)  # backend -> variable
    addresses: Mapping[str, Sequence[str]] = field(default_factory=dict)  # backend -> addresses of its host
    local_keys: Mapping[str, bool] = field(default_factory=dict)  # backend -> its key `local`, where the file has it
    exposed_at: Mapping[str, str] = field(default_factory=dict)  # backend -> our address at which others reach it
    timings: Timings = field(default_factory=Timings)  # medians of the latest calls
    timed: Sequence[TimedPart] = ()  # calls of the last hour, also shadow calls and probes
    database_problem: str = ""
    newest_row_ms: int | None = None
    is_database_missing: bool = False
    now_ms: int = 0
    running_policy: str | None = None  # hash of the policy of the running router; None = no router runs
    calls: Sequence[CallGroup] = ()  # live calls of the last hour
    judged: Sequence[JsonObject] = ()  # `verify.routes` of /v1/metrics, of the last 24 hours
    refusals: Mapping[str, int] = field(default_factory=dict)  # code -> requests refused in the last hour
    workers: int = 0  # workers of the running router that reported within ten seconds
    open_circuits: Mapping[str, int] = field(default_factory=dict)  # backend -> workers with an open circuit
    malformed_keys: Mapping[str, str] = field(default_factory=dict)  # variable -> the problem of its value
    unused_proxies: Mapping[str, Sequence[str]] = field(default_factory=dict)  # variable -> backends that it is set for
    network_file_system: str = ""  # the kind of network file system of an SQLite database; "" = a local disk
    has_gpu: bool = False  # this machine has one, as far as its devices tell
    descriptors: int | None = None  # limit of the running router, else of this process; None = unknown

    @property
    def local(self) -> frozenset[str]:
        """Return the backends that may get private requests."""
        backends = self.policy.backends.items()
        return frozenset(name for name, config in backends if judge_config(config, self.addresses.get(name, ())).local)

    @property
    def observations(self) -> Observations:
        """Return the observations by which a router with these facts would decide."""
        discoveries = self.discoveries.items()
        hosts = {name: reply.model_hosts for name, reply in discoveries if reply.model_hosts is not None}
        return Observations(
            latency_ms=self.timings.warm_ms,
            load_ms=self.timings.load_ms,
            hold_ms=self.timings.hold_ms,
            facts={name: reply.facts for name, reply in discoveries},
            local=self.local,
            models={name: reply.models for name, reply in discoveries},
            model_hosts=hosts,
        )

    def models(self, config: BackendConfig) -> tuple[str, ...]:
        """Return the models that the policy names, or else the model that the router would choose."""
        models = tuple(dict.fromkeys((*config.models, *config.families.values())))
        default = model_for(config, "any", self.observations)
        return models or ((default,) if default else ())

    def model_of(self, route: Route, name: str, family: str = "any") -> str:
        """Return the model that requests of a route get at a backend; `family` is that of the requests when the route
        names none."""
        if route.model and name in self.policy.members(route.backend):
            return route.model
        family = next(iter(route.words("family")), family)
        return model_for(self.policy.backends[name], family, self.observations)

    def judge_model(self, name: str, model: str) -> Verdict:
        """Judge a model of a backend as if the backend itself were local."""
        return judge_target(Target(name, model), replace(self.observations, local=frozenset({name})))
