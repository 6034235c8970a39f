"""What `flask doctor` knows: each check looks at what was seen and names what is wrong, with the fix.  Pure."""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from app.backends import BACKEND_TYPES
from app.routing.locality import (
    Verdict,
    host_name,
    is_address,
    is_cloud_model,
    is_inside,
    is_loopback_name,
    judge_config,
    judge_target,
    model_key,
)
from app.routing.names import model_for, resolve
from app.settings import Settings
from app.types import BackendConfig, Observations, Policy, Route, Target

_SMALL_WINDOW = 4096  # what Ollama runs with when nobody says otherwise
_SKEW_MS = 5_000
_OVERLAY = ipaddress.ip_network("100.64.0.0/10")  # addresses of overlay networks: theirs who say `local: true`


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


def keys(seen: Seen) -> Iterator[Finding]:
    for name, variable in seen.missing_keys.items():
        fix = f"export {variable}=… for the router's process (under systemd in its env file) and restart it"
        yield Finding("key", name, f"its key is missing: {variable} is not set", fix)


_FIXES = {
    "dns": "correct the host in its `endpoint`; in a container use the name of the other container",
    "tls": "use http:// if the server has no certificate, or mend the certificate",
    "unreachable": "is the machine on, and in the same network? In a container: does it have a network?",
    "descriptors": "raise `ulimit -n`, under systemd LimitNOFILE, in Docker --ulimit nofile",
    "timeout": "is the machine on, and the port open in its firewall?",
    "http_401": "its key is refused: put a valid one into {key}",
    "http_403": "its key is refused: put a valid one into {key}",
    "http_404": "something else answers at this address: correct port or path of `endpoint`",
    "protocol": "something else answers at this address: correct port or path of `endpoint`",
}
_START = {
    "ollama": "start it (`ollama serve`, or `systemctl start ollama`), or correct its `endpoint`",
    "llamacpp": "start llama-server, or correct its `endpoint`",
    "vllm": "start it (`vllm serve MODEL`), or correct its `endpoint`",
}


def reachable(seen: Seen) -> Iterator[Finding]:
    for name, answer in seen.answers.items():
        if answer.error:
            config = seen.policy.backends[name]
            known = _FIXES.get(answer.kind, "").format(key=config.api_key_env)
            start = _START.get(config.type, "start the server, or correct its `endpoint`")
            yield Finding("endpoint", name, answer.error, known or start)


def models(seen: Seen) -> Iterator[Finding]:
    """llama-server is left out: it serves one model under any name."""
    for name, answer in seen.answers.items():
        config = seen.policy.backends[name]
        hosted = BACKEND_TYPES[config.type].hosted and name not in seen.local
        if answer.error or hosted or config.type == "llamacpp":
            continue
        if not answer.models:
            pull = "`ollama pull llama3.2`" if config.type == "ollama" else "load one"
            yield Finding("model", name, "it holds no model", f"{pull}, and name it in the policy")
            continue
        for model in (*config.models, *config.families.values()):
            if not _holds(config, answer.models, model) and not is_cloud_model(model):
                near = difflib.get_close_matches(model, answer.models, 1, 0.3) or answer.models[:1]
                get = f"`ollama pull {model}`" if config.type == "ollama" else f"load {model} there"
                what = f"the policy names {model}, which it does not hold"
                yield Finding("model", name, what, f"{get}, or name one that it holds, such as {near[0]}")


def aliases(seen: Seen) -> Iterator[Finding]:
    """Report aliases of a model that its server does not hold and the policy does not declare."""
    held = Observations(models={name: answer.models for name, answer in seen.answers.items()})
    for alias, to in seen.policy.aliases.items():
        for target in resolve(alias, "any", seen.policy, held).targets:
            config, answer = seen.policy.backends[target.backend], seen.answers.get(target.backend, Answer())
            known = (*answer.models, *config.models, *config.families.values())
            if answer.models and config.type != "llamacpp" and not _holds(config, known, target.model):
                what = f"it stands for {to}, and {target.backend} does not hold {target.model}"
                yield Finding("alias", alias, what, "correct `aliases`, or load that model there")


def _holds(config: BackendConfig, models: Sequence[str], model: str) -> bool:
    if config.type != "ollama":
        return model in models
    return model_key(model) in map(model_key, models)


def locality(seen: Seen) -> Iterator[Finding]:
    """Backends whose address says one thing and whose policy another.  Who wrote `local` himself has decided, but for
    `true` at a public address: then private requests leave."""
    for name, config in seen.policy.backends.items():
        found, said = seen.addresses.get(name, ()), seen.said_local.get(name)
        outside = [address for address in found if not _inside(address)]
        hosted = BACKEND_TYPES[config.type].hosted
        if outside and said:
            what = f"the policy says `local: true`, but {_host(config)} is at {outside[0]}: private requests leave"
            yield Finding("local", name, what, "take `local: true` away, unless that machine is yours")
        elif outside and said is None and not hosted:
            what = f"it looks local and is not: {_host(config)} is at {outside[0]}; no private request goes there"
            fix = "say `local: true` if that machine is yours, `local: false` if it is not"
            yield Finding("local", name, what, fix)
        elif found and not outside and said is None and hosted:
            what = f"it is at {found[0]}, but type {config.type} counts as hosted: no private request goes there"
            yield Finding(
                "local", name, what, "say `local: true` if it is yours, `local: false` if it passes requests on"
            )


def _inside(address: str) -> bool:
    return is_inside(address) or (is_address(address) and ipaddress.ip_address(address.partition("%")[0]) in _OVERLAY)


def _host(config: BackendConfig) -> str:
    return host_name(config.endpoint)


def private_requests(seen: Seen) -> Iterator[Finding]:
    wanted = bool(seen.policy.sensitivity.detect or seen.policy.sensitivity.patterns) or any(
        "sensitivity" in route.match for route in seen.policy.routes
    )
    if wanted and not seen.local:
        what = "the policy speaks of private requests, but no backend is local: each of them is refused (503)"
        yield Finding("private", "backends", what, "add a local backend, or `local: true` to one that is yours")
    elif wanted and all(_only_remote(seen, name) for name in seen.local):
        what = "the policy speaks of private requests, but no local backend runs a model: each is refused (503)"
        yield Finding("private", "backends", what, "`ollama pull` a model that runs there, and name it in the policy")


def _only_remote(seen: Seen, name: str) -> bool:
    models = seen.models(seen.policy.backends[name])
    return bool(models) and all(seen.judge_model(name, model).local is False for model in models)


def cloud_models(seen: Seen) -> Iterator[Finding]:
    """Find the models that an Ollama hands on to another host: it says so, or their name does."""
    for name, config in seen.policy.backends.items():
        for model in seen.models(config) if config.type == "ollama" else ():
            verdict = seen.judge_model(name, model)
            if verdict.local is False:
                at = f"at {verdict.remote_host}" if verdict.remote_host else "in its maker's cloud"
                what = f"{model} runs {at}, not on this machine; no private request goes there"
                other = "a model without `cloud` in its tag" if is_cloud_model(model) else "another model"
                yield Finding("cloud", name, what, f"name {other}, and `ollama pull` it")


def windows(seen: Seen) -> Iterator[Finding]:
    for name, answer in seen.answers.items():
        config = seen.policy.backends[name]
        if answer.error or BACKEND_TYPES[config.type].hosted:
            continue
        untold = []
        for model in seen.models(config):
            if seen.judge_model(name, model).local is False:
                continue  # its window is that of another host
            said, real = config.context_window(model), answer.windows.get(model)
            if said is None and real is None:
                untold.append(model)
            yield from _window(name, model, said, real, _LARGER.get(config.type, "start it with a larger one"))
        if untold and config.type == "ollama":
            what = (
                f"`contextWindow` is not set for {', '.join(untold)}, and Ollama tells it of loaded models only: by "
                f"default {_SMALL_WINDOW} tokens below 24 GB of video memory, longer prompts are cut without a word"
            )
            fix = f"{_LARGER['ollama']}, and write `contextWindow: 16384`; or load them and ask again"
            yield Finding("context", name, what, fix)


# Of Ollama 0.17: a Modelfile goes before the variable.
_LARGER = {"ollama": "start Ollama with OLLAMA_CONTEXT_LENGTH=16384 (or raise `num_ctx`, where its Modelfile sets it)"}


def _window(name: str, model: str, said: int | None, real: int | None, larger: str) -> Iterator[Finding]:
    if said is not None and real is not None and said > real:
        what = f"`contextWindow` says {said} tokens for {model}, the server runs it with {real}: longer prompts are cut"
        yield Finding("context", name, what, f"{larger}, or write `contextWindow: {real}`")
    elif (real or said or _SMALL_WINDOW + 1) <= _SMALL_WINDOW:
        what = f"{model} runs with a context of {real or said} tokens, which longer conversations soon fill"
        yield Finding("context", name, what, f"{larger}, and write `contextWindow: 16384`")


def budgets(seen: Seen) -> Iterator[Finding]:
    for route in seen.policy.routes:
        budget = route.latency_budget_ms
        expected = {name: _expected(seen, route, name) for name in (route.backend, *route.fallbacks)}
        first = expected[route.backend]
        if budget is None or first is None or first <= budget:
            continue
        known = [ms for ms in expected.values() if ms is not None]
        fix = f"raise it above {first:.0f}, or take it away"
        if min(known) > budget:
            what = f"latencyBudgetMs is {budget:.0f}, but its fastest backend is expected to take {min(known):.0f} ms"
            yield Finding("budget", route.label, what, fix)
        else:
            what = (
                f"latencyBudgetMs is {budget:.0f}, but {route.backend} is expected to take {first:.0f} ms: "
                "it is always passed over"
            )
            yield Finding("budget", route.label, what, fix)


def _expected(seen: Seen, route: Route, name: str) -> float | None:
    """The median of the model that this route's requests get, else p50Ms."""
    config = seen.policy.backends[name]
    family = next(iter(families), "any") if isinstance(families := route.match.get("family"), frozenset) else "any"
    model = model_for(config, family, Observations(models={name: seen.answers.get(name, Answer()).models}))
    return seen.latency_ms.get((name, model), config.p50_ms)


def exposed(seen: Seen) -> Iterator[Finding]:
    for name, address in seen.open_at.items():
        config = seen.policy.backends[name]
        port = urlsplit(config.endpoint).port or 80
        what = f"others reach it at {address}:{port}, past this router, and it asks for no key"
        fix = "bind it to 127.0.0.1, or close the port in the firewall"
        if config.type == "ollama":
            fix = "set OLLAMA_HOST=127.0.0.1 for Ollama (`systemctl edit ollama`), or close the port in the firewall"
        yield Finding("exposed", name, what, fix)


def door(seen: Seen) -> Iterator[Finding]:
    host = seen.settings.host.strip("[]")
    is_loopback = is_loopback_name(host) or (is_address(host) and ipaddress.ip_address(host).is_loopback)
    if not is_loopback and not seen.settings.api_keys:
        what = f"the router listens on {host} and wants no key: whoever reaches it spends your GPU and your bill"
        yield Finding("door", "LLR_HOST", what, "set LLR_API_KEYS, or LLR_HOST=127.0.0.1")


def echo(seen: Seen) -> Iterator[Finding]:
    for route in seen.policy.routes:
        if seen.policy.backends[route.backend].type == "echo":
            fix = "install Ollama, `ollama pull` a model, delete the policy, run `flask init` and start again"
            yield Finding("echo", route.backend, "it is no model: it repeats what it is told", fix)
            return


def database(seen: Seen) -> Iterator[Finding]:
    problem = seen.database_problem
    if seen.database_missing and seen.serving is not None and not problem:
        what = f"the router at port {seen.settings.port} runs, but there is no database at {seen.settings.db}"
        yield Finding(
            "database", "LLR_DB", what, "set LLR_DB here as it is set for the router, or reports find nothing"
        )
    if not problem:
        return
    fixes = (
        ("unable to open", "make its folder, and let the router's user write there"),
        ("readonly", "let the router's user write to the file and to its folder"),
        ("read-only", "let the router's user write to the file and to its folder"),
        ("not a database", "the file is something else: name another in LLR_DB"),
        ("locked", "another program holds it: end that program"),
        ("full", "free space on its disk"),
    )
    fix = next((fix for word, fix in fixes if word in problem), "name a place that can be written in LLR_DB")
    yield Finding("database", "LLR_DB", f"it cannot be written: {problem}", fix)


def clock(seen: Seen) -> Iterator[Finding]:
    ahead = (seen.newest_row_ms or 0) - seen.now_ms
    if ahead > _SKEW_MS:
        what = f"its newest row is {_span(ahead)} in the future: a clock was, or is, wrong"
        fix = "set the clocks of all machines that write to it (`timedatectl set-ntp true`)"
        yield Finding("clock", "LLR_DB", what, fix)


def _span(ms: int) -> str:
    for limit, unit in ((86_400_000, "days"), (3_600_000, "hours"), (60_000, "minutes")):
        if ms >= 2 * limit:
            return f"{ms // limit} {unit}"
    return f"{ms // 1000} seconds"


def serving(seen: Seen) -> Iterator[Finding]:
    if seen.serving is not None and seen.serving != seen.policy.version:
        what = (
            f"the router at port {seen.settings.port} serves policy {seen.serving}, the file is {seen.policy.version}"
        )
        yield Finding(
            "reload", seen.settings.policy, what, "send the router SIGHUP (`systemctl reload`), and read its log"
        )


CHECKS: tuple[Callable[[Seen], Iterator[Finding]], ...] = (
    keys, reachable, models, aliases, locality, private_requests, cloud_models, windows, budgets, exposed, door, echo,
    database, clock, serving,
)  # fmt: skip


def findings(seen: Seen) -> list[Finding]:
    return [finding for check in CHECKS for finding in check(seen)]
