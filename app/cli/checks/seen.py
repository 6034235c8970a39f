"""What the checks look at, and what they find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from app.metrics.queries import CallGroup
from app.routing.locality import Verdict, judge_config, judge_target
from app.routing.names import model_for
from app.settings import Settings
from app.types import BackendConfig, Observations, Policy, Target


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` is a stable name for scripts, `where` a backend, route, variable or file."""

    check: str
    where: str
    what: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a backend said when it was asked."""

    models: tuple[str, ...] = ()
    error: str = ""  # in words; "" = it answered
    kind: str = ""  # short kind of the error: refused, dns, timeout, http_401 …
    windows: Mapping[str, int] = field(default_factory=dict)  # model -> tokens it really runs with
    model_hosts: Mapping[str, str] | None = None  # as in Observations; None = it runs all models itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that the checks look at."""

    settings: Settings
    policy: Policy
    answers: Mapping[str, Answer]  # by backend; those whose key is missing, and echo, were not asked
    missing_keys: Mapping[str, str] = field(default_factory=dict)  # backend -> variable
    addresses: Mapping[str, Sequence[str]] = field(default_factory=dict)  # backend -> what its host resolves to
    said_local: Mapping[str, bool] = field(default_factory=dict)  # backend -> `local`, where the policy's text has it
    open_at: Mapping[str, str] = field(default_factory=dict)  # backend -> address of ours at which others reach it
    latency_ms: Mapping[tuple[str, str], float] = field(default_factory=dict)
    database_problem: str = ""
    newest_row_ms: int | None = None
    database_missing: bool = False
    now_ms: int = 0
    serving: str | None = None  # hash of the policy that a running router serves; None = none runs
    calls: Sequence[CallGroup] = ()  # live calls of the last hour
    refusals: Mapping[str, int] = field(default_factory=dict)  # code -> requests refused in the last hour
    workers: int = 0  # of the running router, heard of within ten seconds
    circuit_open: Mapping[str, int] = field(default_factory=dict)  # backend -> workers in which it is cooling down
    spoiled_keys: Mapping[str, str] = field(default_factory=dict)  # variable -> what is wrong with its value
    unused_proxies: Mapping[str, Sequence[str]] = field(default_factory=dict)  # variable -> backends it is set for
    network_file_system: str = ""  # the kind on which an SQLite database lies; "" = on none
    descriptors: int | None = None  # limit of the running router, else of this process; None = cannot be read

    @property
    def local(self) -> frozenset[str]:
        """Return the backends that private requests may go to."""
        backends = self.policy.backends.items()
        return frozenset(name for name, config in backends if judge_config(config, self.addresses.get(name, ())).local)

    @property
    def observations(self) -> Observations:
        """Return what a router that saw the same would decide by."""
        answers = self.answers.items()
        hosts = {name: answer.model_hosts for name, answer in answers if answer.model_hosts is not None}
        models = {name: answer.models for name, answer in answers}
        return Observations(local=self.local, models=models, model_hosts=hosts)

    def models(self, config: BackendConfig) -> tuple[str, ...]:
        """What the policy names, or else the one that would be taken of those it holds."""
        named = tuple(dict.fromkeys((*config.models, *config.families.values())))
        taken = model_for(config, "any", self.observations)
        return named or ((taken,) if taken else ())

    def judge_model(self, name: str, model: str) -> Verdict:
        """Judge a model of a backend as if the backend itself were local."""
        return judge_target(Target(name, model), replace(self.observations, local=frozenset({name})))
