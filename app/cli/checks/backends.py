"""Check the backends: their keys, addresses, models and locality."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from app.backends import BACKEND_TYPES
from app.cli.checks.facts import Discovery, Facts, Finding
from app.routing.locality import host_name, is_address, is_cloud_model, is_local_address, model_key
from app.routing.names import resolve
from app.types import BackendConfig, Observations, Outcome
from app.words import utc

_MOST_COMPARED = 1000  # models of a server that are compared to find the nearest one
_OVERLAY = ipaddress.ip_network("100.64.0.0/10")  # overlay networks: `local: true` is plausible for them
_QUOTES = tuple("'\"`‘’“”«»")


def keys(facts: Facts) -> Iterator[Finding]:
    """Report keys that this command's environment lacks.  The router's environment may have them."""
    for name, variable in facts.missing_keys.items():
        success_ms, no_key_ms = _last_ms(facts, name, None), _last_ms(facts, name, "no_key")
        if success_ms > no_key_ms:
            what = (
                f"{variable} is not set in this shell, so this command did not ask the backend; the router has the "
                f"key, because a call succeeded at {utc(success_ms)}"
            )
            fix = f"run `flask doctor` with the variables of the router's process, {variable} among them"
        else:
            what = f"its key is missing: {variable} is not set"
            fix = f"export {variable}=… for the router's process (under systemd in its env file) and restart it"
        yield Finding("key", name, what, fix)


def _last_ms(facts: Facts, backend: str, error: str | None) -> int:
    """Return when the latest call of the last hour ended with `error` (None: with success); 0 when none did."""
    outcome = Outcome.ERROR if error else Outcome.OK
    groups = (group for group in facts.calls if (group.backend, group.outcome) == (backend, outcome))
    return max((group.last_ms for group in groups if error in (None, group.error)), default=0)


def key_forms(facts: Facts) -> Iterator[Finding]:
    for variable, problem in facts.malformed_keys.items():
        fix = f"write {variable}=KEY with the key alone (env files of systemd and Docker keep quotes)"
        yield Finding("key", variable, f"its value {problem}, so the service refuses the key", fix)


def key_problem(value: str) -> str:
    """Return the problem of a key's value, or "" when it looks like a key.  The router strips spaces around it."""
    value = value.strip()
    if value[:1] in _QUOTES or value[-1:] in _QUOTES:
        return "is in quotes"
    if scheme := re.match(r"(?i)(authorization:\s*)?(bearer|basic)\s", value):
        return f"begins with `{scheme[0].strip()}`, which the router adds itself"
    if len(value.split()) > 1:
        return "has spaces or line breaks in it"
    return "" if value.isascii() and value.isprintable() else "holds characters that no key has"


REFUSED_KEY = "the service refuses its key: put a valid key into {key}"
OFFLINE = "check that the machine is on and in the same network; in a container, that the container has a network"
WRONG_HOST = "correct the host in its `endpoint`; in a container use the name of the other container"
BAD_TLS = "use http:// if the server has no certificate, or fix the certificate"
_WRONG_SERVER = "another program answers at this address: correct the port or path of `endpoint`"
_FIXES = {
    "dns": WRONG_HOST,
    "tls": BAD_TLS,
    "unreachable": OFFLINE,
    "descriptors": "raise `ulimit -n`, under systemd LimitNOFILE, in Docker --ulimit nofile",
    "timeout": "check that the machine is on and that its firewall opens the port",
    "http_401": REFUSED_KEY,
    "http_403": REFUSED_KEY,
    "http_404": _WRONG_SERVER,
    "protocol": _WRONG_SERVER,
}
_START = {
    "ollama": "start it (`ollama serve`, or `systemctl start ollama`), or correct its `endpoint`",
    "llamacpp": "start llama-server, or correct its `endpoint`",
    "vllm": "start it (`vllm serve MODEL`), or correct its `endpoint`",
}


def reachable(facts: Facts) -> Iterator[Finding]:
    for name, reply in facts.discoveries.items():
        config = facts.policy.backends[name]
        is_reported = reply.kind in ("http_401", "http_403") and config.api_key_env in facts.malformed_keys
        if reply.error and not is_reported:
            fix = _FIXES.get(reply.kind, "").format(key=config.api_key_env)
            yield Finding("endpoint", name, reply.error, fix or start(config))


def start(config: BackendConfig) -> str:
    """Return how to start a server that does not listen."""
    return _START.get(config.type, "start the server, or correct its `endpoint`")


def models(facts: Facts) -> Iterator[Finding]:
    """Report models of the policy that the server lacks, except for llama-server: it serves one model by any name."""
    for name, reply in facts.discoveries.items():
        config = facts.policy.backends[name]
        is_hosted = BACKEND_TYPES[config.type].hosted and name not in facts.local
        if reply.error or is_hosted or config.type == "llamacpp":
            continue
        if not reply.models:
            pull = "`ollama pull llama3.2`" if config.type == "ollama" else "load a model"
            yield Finding("model", name, "its server has no model", f"{pull}, and name it in the policy")
            continue
        for model in (*config.models, *config.families.values()):
            if not has(config, reply.models, model) and not is_cloud_model(model):
                near = difflib.get_close_matches(model, reply.models[:_MOST_COMPARED], 1, 0.3) or reply.models[:1]
                pull = f"`ollama pull {model}`" if config.type == "ollama" else f"load {model} there"
                what = f"the policy names {model}, which its server does not have"
                yield Finding("model", name, what, f"{pull}, or name a model that it has, such as {near[0]}")


def aliases(facts: Facts) -> Iterator[Finding]:
    """Report aliases of a model that its server lacks and that the policy does not declare."""
    observations = Observations(models={name: reply.models for name, reply in facts.discoveries.items()})
    for alias, meaning in facts.policy.aliases.items():
        for target in resolve(alias, "any", facts.policy, observations).targets:
            config = facts.policy.backends[target.backend]
            reply = facts.discoveries.get(target.backend, Discovery())
            names = (*reply.models, *config.models, *config.families.values())
            if reply.models and config.type != "llamacpp" and not has(config, names, target.model):
                what = f"it stands for {meaning}, and {target.backend} does not have {target.model}"
                yield Finding("alias", alias, what, "correct `aliases`, or load that model there")


def has(config: BackendConfig, models: Sequence[str], model: str) -> bool:
    """Return True when the server has a model of this name."""
    if config.type != "ollama":
        return model in models
    return model_key(model) in map(model_key, models)


def locality(facts: Facts) -> Iterator[Finding]:
    """Report backends whose address contradicts the policy.  The key `local` of the policy is accepted, except
    `local: true` at a public address, where private requests would leave."""
    for name, config in facts.policy.backends.items():
        addresses, is_local = facts.addresses.get(name, ()), facts.local_keys.get(name)
        public = [address for address in addresses if not _is_private(address)]
        is_hosted, host = BACKEND_TYPES[config.type].hosted, host_name(config.endpoint)
        if public and is_local:
            what = f"the policy says `local: true`, but {host} is at {public[0]}: private requests leave"
            yield Finding("local", name, what, "remove `local: true`, unless that machine is yours")
        elif public and is_local is None and not is_hosted:
            what = f"its type is local, but {host} is at {public[0]}: no private request goes there"
            fix = "write `local: true` if that machine is yours, `local: false` if it is not"
            yield Finding("local", name, what, fix)
        elif addresses and not public and is_local is None and is_hosted:
            what = f"it is at {addresses[0]}, but type {config.type} counts as hosted: no private request goes there"
            fix = "write `local: true` if it is yours, `local: false` if it passes requests on"
            yield Finding("local", name, what, fix)


def _is_private(address: str) -> bool:
    is_overlay = is_address(address) and ipaddress.ip_address(address.partition("%")[0]) in _OVERLAY
    return is_local_address(address) or is_overlay


def cloud_models(facts: Facts) -> Iterator[Finding]:
    """Report models that an Ollama server forwards to another host, by its own word or by the model's name."""
    for name, config in facts.policy.backends.items():
        for model in facts.models(config) if config.type == "ollama" else ():
            verdict = facts.judge_model(name, model)
            if verdict.local is False:
                place = f"at {verdict.remote_host}" if verdict.remote_host else "in its maker's cloud"
                what = f"{model} runs {place}, not on this machine; no private request goes there"
                other = "a model without `cloud` in its tag" if is_cloud_model(model) else "another model"
                yield Finding("cloud", name, what, f"name {other}, and `ollama pull` it")


def exposed(facts: Facts) -> Iterator[Finding]:
    for name, address in facts.exposed_at.items():
        config = facts.policy.backends[name]
        port = urlsplit(config.endpoint).port or 80
        what = f"other machines can reach it at {address}:{port} without this router, and it asks for no key"
        fix = "bind it to 127.0.0.1, or close the port in the firewall"
        if config.type == "ollama":
            fix = "set OLLAMA_HOST=127.0.0.1 for Ollama (`systemctl edit ollama`), or close the port in the firewall"
        yield Finding("exposed", name, what, fix)
