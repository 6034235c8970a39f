"""Check the models of the servers: their context windows, their memory, their loads and what they can use."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from app.backends import BACKEND_TYPES
from app.cli.checks.backends import has
from app.cli.checks.facts import Discovery, Facts, Finding
from app.cli.checks.loads import Load, loads
from app.cli.common import counted
from app.metrics.servers import gpu_share
from app.routing.locality import host_name, is_address, is_loopback_name, model_key
from app.types import BackendConfig, ModelFacts, Outcome
from app.words import duration

_SMALL_WINDOW = 4096  # tokens: Ollama's default where the video memory is below 24 GB
_FEW = 3  # fewer loads or refusals in an hour are no finding
_KEEP_ALIVE_S = 300  # Ollama's default
_WAITING = 0.25  # share of the calls that waited for a place
_FELT_MS = 1000  # a shorter wait is not felt
_UNKNOWN = ModelFacts()


# --- context windows ----------------------------------------------------------------------------


def windows(facts: Facts) -> Iterator[Finding]:
    """Report windows that are small, smaller than `contextWindow`, or unknown where the server cuts prompts."""
    for name, reply in facts.discoveries.items():
        config = facts.policy.backends[name]
        if reply.error or (BACKEND_TYPES[config.type].hosted and name not in facts.local):
            continue
        unknown = []
        for model in facts.models(config):
            if facts.judge_model(name, model).local is False:
                continue  # its window is that of another host
            declared, actual = config.context_window(model), reply.windows.get(model)
            if declared is None and actual is None:
                unknown.append(model)
            yield from _window(name, reply, model, declared, actual, _larger(config, reply))
        if unknown and config.type == "ollama" and not reply.speaks_native:
            what = (
                f"the context window of {', '.join(unknown)} is unknown: `contextWindow` is not set, and Ollama "
                f"reports the window of loaded models only. Its default is {_SMALL_WINDOW} tokens where the video "
                "memory is below 24 GB, and it cuts longer prompts without an error"
            )
            fix = f"{_larger(config, reply)}, and write `contextWindow: 16384`; or load the models and run this again"
            yield Finding("context", name, what, fix)


def _larger(config: BackendConfig, reply: Discovery) -> str:
    """Return how to give a model a larger window.  In Ollama a Modelfile takes precedence over the variable."""
    if config.type != "ollama":
        return "start it with a larger context window"
    server = "start Ollama with OLLAMA_CONTEXT_LENGTH=16384 (or raise `num_ctx`, where its Modelfile sets it)"
    return f"write `numCtx: 16384` at this backend, or {server}" if reply.speaks_native else server


def _window(
    name: str, reply: Discovery, model: str, declared: int | None, actual: int | None, fix: str
) -> Iterator[Finding]:
    fact = reply.facts.get(model_key(model), _UNKNOWN)
    trained = fact.trained
    if declared is not None and actual is not None and declared > actual:
        end = "refuses" if fact.refuses else "cuts"
        what = (
            f"`contextWindow` says {declared} tokens for {model}, but the server runs it with {actual}: it {end} "
            "longer prompts"
        )
        yield Finding("context", name, what, f"{fix}, or write `contextWindow: {actual}`")
    elif (window := actual or declared or _SMALL_WINDOW + 1) <= _SMALL_WINDOW < (trained or _SMALL_WINDOW + 1):
        more = f", although it was trained for {trained}" if trained else ""
        what = (
            f"{model} runs with a context of {window} tokens{more}, which is small for conversations: it does not see "
            "a whole file"
        )
        yield Finding("context", name, what, f"{fix}, and write `contextWindow: 16384`" if declared else fix)


def versions(facts: Facts) -> Iterator[Finding]:
    """Report an Ollama that cannot refuse a prompt that is too long."""
    for name, reply in facts.discoveries.items():
        config = facts.policy.backends[name]
        if config.type == "ollama" and reply.version and config.own.get("api") != "openai" and not reply.speaks_native:
            what = (
                f"its version {reply.version} is too old for `api: native`: the router uses /v1, where Ollama cuts "
                "prompts that are too long, without an error"
            )
            fix = "update Ollama (https://ollama.com/download), or write `api: openai` to accept this"
            yield Finding("version", name, what, fix)


# --- memory and loads ---------------------------------------------------------------------------


def offload(facts: Facts) -> Iterator[Finding]:
    """Report loaded models that are not wholly on the GPU.  On a machine without a GPU this is no problem."""
    for name, reply in facts.discoveries.items():
        config = facts.policy.backends[name]
        for model, state in reply.residency.items():
            share = gpu_share(state)
            if share is None or share == 1 or (share == 0 and _has_no_gpu(config, facts)):
                continue
            where = f"{share:.0%} of {model} is on the GPU and the rest" if share else f"{model}"
            what = f"{where} runs on the CPU, which makes it several times slower"
            fix = (
                "use a smaller model or quantisation, or a smaller window (`numCtx`), so that both fit into the video "
                "memory; unload other models"
                if share
                else "install the driver of the GPU, and read Ollama's log: it says why it does not use the GPU"
            )
            yield Finding("offload", name, what, fix)


def _has_no_gpu(config: BackendConfig, facts: Facts) -> bool:
    host = host_name(config.endpoint)
    is_here = is_loopback_name(host) or (is_address(host) and host.startswith(("127.", "::1")))
    return is_here and not facts.has_gpu


def unloading(facts: Facts) -> Iterator[Finding]:
    """Report models that the server unloads before they are called again, although no other model needs the room."""
    for (name, model), some in _by_model(facts).items():
        config = facts.policy.backends[name]
        keep_s = _keep_alive_s(config, model)
        idle = [load for load in some if not load.others - {model} and (load.idle_ms or 0) >= keep_s * 1000]
        if keep_s < 0 or len(idle) < _FEW:
            continue
        longest_s = max(load.idle_ms or 0 for load in idle) / 1000
        what = (
            f"{model} was unloaded before it was called again, {len(idle)} times in the last hour: it stays loaded for "
            f"{duration(keep_s * 1000)}, and a load takes {_median(idle)}"
        )
        minutes = int(longest_s // 60) + 1
        fix = f"write `keepAlive: {minutes}m` or longer (-1: without end) at this backend, and `preload: [{model}]`"
        yield Finding("unloading", name, what, fix)


def switching(facts: Facts) -> Iterator[Finding]:
    """Report models of one server that remove each other from memory, with the time that their loads took."""
    by_backend: dict[str, list[Load]] = defaultdict(list)
    for (name, model), some in _by_model(facts).items():
        keep_ms = _keep_alive_s(facts.policy.backends[name], model) * 1000
        is_expired = [0 <= keep_ms <= (load.idle_ms or 0) and not load.others - {model} for load in some]
        by_backend[name] += [
            load for load, expired in zip(some, is_expired, strict=True) if load.idle_ms is not None and not expired
        ]
    for name, some in by_backend.items():
        if len(some) < _FEW:
            continue
        names = sorted({load.model for load in some}.union(*(load.others for load in some)))
        who = f"{_list(names)} take turns in its memory" if len(names) > 1 else f"other clients remove {names[0]}"
        what = (
            f"{who}: {counted(len(some), 'load')} in the last hour took {_total(some)}, in the median {_median(some)}"
        )
        fix = (
            "use one model for all families (`model`, without `families`), put one of them on another server, or raise "
            "OLLAMA_MAX_LOADED_MODELS if the memory holds both"
            if len(names) > 1
            else f"`preload: [{names[0]}]` loads it again, or let the other clients use the router too"
        )
        yield Finding("switching", name, what, fix)


def queues(facts: Facts) -> Iterator[Finding]:
    """Report backends whose places are often all taken."""
    for name in facts.policy.backends:
        calls = [call for call in facts.timed if call.backend == name]
        waits = [wait for call in calls if (wait := call.wait_ms or 0) >= _FELT_MS]
        if len(waits) < _FEW or len(waits) < _WAITING * len(calls):
            continue
        what = (
            f"{len(waits)} of {counted(len(calls), 'call')} ({len(waits) / len(calls):.0%}) of the last hour waited "
            f"for a place under `maxConcurrency`, in the median {duration(statistics.median(waits))}"
        )
        fix = (
            "raise `maxConcurrency` to the number of requests that the server runs in parallel (Ollama: "
            "OLLAMA_NUM_PARALLEL), write `maxWaitMs` so that requests go to a fallback, or add a server in a pool"
        )
        yield Finding("queue", name, what, fix)


def _by_model(facts: Facts) -> Mapping[tuple[str, str], list[Load]]:
    """Return the loads of the last hour by backend and model, of the backends in the policy."""
    some: dict[tuple[str, str], list[Load]] = defaultdict(list)
    for load in loads(facts.timed):
        if load.backend in facts.policy.backends:
            some[load.backend, load.model].append(load)
    return some


def _keep_alive_s(config: BackendConfig, model: str) -> int:
    """Return how long the server keeps a model without calls; below 0: without end, as models of `preload`."""
    if keep_alive := config.own.get("keep_alive"):
        return int(str(keep_alive).removesuffix("s"))
    return -1 if has(config, config.own.get("preload") or (), model) else _KEEP_ALIVE_S


def _median(some: Sequence[Load]) -> str:
    return duration(statistics.median(load.took_ms for load in some))


def _total(some: Sequence[Load]) -> str:
    return duration(sum(load.took_ms for load in some))


def _list(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


# --- what models can use ------------------------------------------------------------------------


def preloads(facts: Facts) -> Iterator[Finding]:
    for name, reply in facts.discoveries.items():
        config = facts.policy.backends[name]
        for model in config.own.get("preload") or () if reply.models else ():
            if not has(config, reply.models, model):
                what = f"`preload` names {model}, which its server does not have"
                yield Finding("preload", name, what, f"`ollama pull {model}`, or remove it from `preload`")


def abilities(facts: Facts) -> Iterator[Finding]:
    """Report routes for images whose model reads none, and models that refused what requests asked of them."""
    for route in facts.policy.routes:
        if route.words("modality") != {"image"}:
            continue
        for name in facts.policy.members(route.backend):
            model = facts.model_of(route, name, "gemma")
            capabilities = facts.discoveries.get(name, Discovery()).facts.get(model_key(model), _UNKNOWN).capabilities
            if capabilities is not None and "vision" not in capabilities:
                what = f"the route is for images, and {model} of {name} reads none"
                fix = f"name a model that reads images in `families` (gemma) of {name}: {_with('vision', facts)}"
                yield Finding("ability", route.label, what, fix)
    for name in facts.policy.backends:
        refusals = [
            group
            for group in facts.calls
            if (group.backend, group.outcome, group.error) == (name, Outcome.ERROR, "unsupported")
        ]
        if (number := sum(group.calls for group in refusals)) >= _FEW:
            what = f"its models refused {counted(number, 'call')} of the last hour: they lack tools, vision or thinking"
            yield Finding("ability", name, what, f"name a model with tools: {_with('tools', facts)}")


def _with(capability: str, facts: Facts) -> str:
    """Return models of all servers with a capability, as a part of a fix."""
    examples = [
        f"{name} has {model}"
        for name, reply in facts.discoveries.items()
        for model in reply.models
        if capability in (reply.facts.get(model_key(model), _UNKNOWN).capabilities or ())
    ]
    return "; ".join(examples[:3]) or f"no server has one; `ollama pull` a model whose page says {capability}"
