"""Checks of the backends: do they answer, hold their models, and stand where the policy says?"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from app.backends import BACKEND_TYPES
from app.cli.checks.seen import Answer, Finding, Seen
from app.routing.locality import host_name, is_address, is_cloud_model, is_local_address, model_key
from app.routing.names import resolve
from app.types import BackendConfig, Observations
from app.words import utc

_MOST_COMPARED = 1000  # models of a server that are looked through for the nearest one
_SMALL_WINDOW = 4096  # what Ollama runs with when nobody says otherwise
_OVERLAY = ipaddress.ip_network("100.64.0.0/10")  # addresses of overlay networks: theirs who say `local: true`


_QUOTES = tuple("'\"`‘’“”«»")


def keys(seen: Seen) -> Iterator[Finding]:
    """Report the keys that are not set in the environment of this command, which need not be that of the router."""
    for name, variable in seen.missing_keys.items():
        answered_ms, unset_ms = _last_ms(seen, name, None), _last_ms(seen, name, "no_key")
        if answered_ms > unset_ms:
            what = (
                f"{variable} is not set in this shell, so it was not asked; the router has a key, because it answered "
                f"a call at {utc(answered_ms)}"
            )
            fix = f"run `flask doctor` with the variables of the router's process, {variable} among them"
        else:
            what = f"its key is missing: {variable} is not set"
            fix = f"export {variable}=… for the router's process (under systemd in its env file) and restart it"
        yield Finding("key", name, what, fix)


def _last_ms(seen: Seen, backend: str, error: str | None) -> int:
    """Return when the latest call of the last hour ended in `error` (None: in an answer); 0 when none did."""
    outcome = "error" if error else "ok"
    groups = (group for group in seen.calls if (group.backend, group.outcome) == (backend, outcome))
    return max((group.last_ms for group in groups if error in (None, group.error)), default=0)


def key_forms(seen: Seen) -> Iterator[Finding]:
    for variable, problem in seen.spoiled_keys.items():
        fix = f"write {variable}=KEY: the key alone (an env file of systemd or Docker is no shell, quotes stay in it)"
        yield Finding("key", variable, f"its value {problem}, so the key in it is refused", fix)


def key_problem(value: str) -> str:
    """Return what is wrong with the value of a key's variable; "" when it looks like a key.  Spaces around it do not
    count: the router takes them off."""
    value = value.strip()
    if value[:1] in _QUOTES or value[-1:] in _QUOTES:
        return "is in quotes"
    if scheme := re.match(r"(?i)(authorization:\s*)?(bearer|basic)\s", value):
        return f"begins with `{scheme[0].strip()}`, which the router adds itself"
    if len(value.split()) > 1:
        return "has spaces or line breaks in it"
    return "" if value.isascii() and value.isprintable() else "holds characters that no key has"


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
        config = seen.policy.backends[name]
        refused_for_key = answer.kind in ("http_401", "http_403") and config.api_key_env in seen.spoiled_keys
        if answer.error and not refused_for_key:
            known = _FIXES.get(answer.kind, "").format(key=config.api_key_env)
            yield Finding("endpoint", name, answer.error, known or start(config))


def start(config: BackendConfig) -> str:
    """Return how a server that does not listen is started."""
    return _START.get(config.type, "start the server, or correct its `endpoint`")


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
                near = difflib.get_close_matches(model, answer.models[:_MOST_COMPARED], 1, 0.3) or answer.models[:1]
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
    return is_local_address(address) or (
        is_address(address) and ipaddress.ip_address(address.partition("%")[0]) in _OVERLAY
    )


def _host(config: BackendConfig) -> str:
    return host_name(config.endpoint)


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
                f"the context window of {', '.join(untold)} is unknown: `contextWindow` is not set, and Ollama tells "
                f"that of loaded models only. Its default is {_SMALL_WINDOW} tokens where the video memory is below 24 "
                "GB, and it cuts longer prompts without a word"
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


def exposed(seen: Seen) -> Iterator[Finding]:
    for name, address in seen.open_at.items():
        config = seen.policy.backends[name]
        port = urlsplit(config.endpoint).port or 80
        what = f"others reach it at {address}:{port}, past this router, and it asks for no key"
        fix = "bind it to 127.0.0.1, or close the port in the firewall"
        if config.type == "ollama":
            fix = "set OLLAMA_HOST=127.0.0.1 for Ollama (`systemctl edit ollama`), or close the port in the firewall"
        yield Finding("exposed", name, what, fix)
