"""The first policy: a commented text that fits what was found.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

from app.backends import BACKEND_TYPES
from app.cli.surroundings import Found, Model, Server
from app.routing.locality import host_name, host_of, judge
from app.types import Cuts

_CODE = ("code", "devstral", "codestral")
_VISION = (
    "vision", "llava", "-vl", "vl:", "gemma3", "minicpm-v", "moondream", "pixtral", "llama4", "mistral-small3",
    "internvl", "smolvlm",
)  # fmt: skip
_BLIND = ("gemma3:1b", "gemma3:270m", "gemma3n")  # called like their seeing relatives
_COMFORTABLE_BYTES = 16_000_000_000  # a larger model is slow, or does not fit, on most machines


def families(models: Sequence[Model]) -> dict[str, str]:
    """Which model serves which family: by name coders, those that see, and the rest; of several the best fitting."""
    kinds: dict[str, list[Model]] = {}
    for model in models:
        name = model.name.lower()
        sees = model.sees or (any(word in name for word in _VISION) and not name.startswith(_BLIND))
        kind = "qwen-coder" if any(word in name for word in _CODE) else "gemma" if sees else "llama"
        kinds.setdefault(kind, []).append(model)
    return {kind: best(found).name for kind, found in kinds.items()}


def best(models: Sequence[Model]) -> Model:
    """The largest that is comfortable, else the smallest; the first where sizes are not told."""
    comfortable = [model for model in models if model.size_bytes <= _COMFORTABLE_BYTES]
    if comfortable:
        return max(comfortable, key=lambda model: model.size_bytes)
    return min(models, key=lambda model: model.size_bytes)


def write(found: Found) -> str:
    """The text of a policy for what was found."""
    names, local = _names(found), _local(found)
    backends = [*(_server(server) for server in found.servers), *(_HOSTED[kind] for kind in found.hosted)]
    private = _route("sensitivity: high", local, "never leaves the machine", _PRIVATE) if local else _NO_LOCAL
    default = f"  - default: {names[0]}\n{_fallback(names[1:])}"
    head = [f"# {line}\n" for text in (*found.notes, *decided(found)) for line in wrap(text, 116)]
    hard = [_hard(found)] if found.servers and found.hosted else []
    routes = (_ROUTES, private, *hard, *_elsewhere(found), default)
    return "".join((_HEAD, *head, "\nbackends:\n", *(backends or [_ECHO]), *routes, _aliases(found), _SENSITIVITY))


def decided(found: Found) -> tuple[str, ...]:
    """Say what the policy does, and what may leave with it: sentences for the file and for the terminal."""
    names, local = _names(found), _local(found)
    order = f"{names[0]} answers" + (f"; when it fails, {', then '.join(names[1:])}." if names[1:] else ".")
    stays = "what carries the header X-LLR-Sensitivity: high, and what a detector finds a secret in (`sensitivity`)"
    kept = f"Never leaves: {stays}." if local else f"Is refused (503), because no backend here is local: {stays}."
    return (order, *_keys(found), *_leaving(found), kept)


def _keys(found: Found) -> Iterator[str]:
    for kind in found.hosted:
        yield f"{BACKEND_TYPES[kind].default_key_env} is set, so {kind} is a backend; its calls cost money."


def _leaving(found: Found) -> Iterator[str]:
    """Say what goes out, and where to."""
    away = [server for server in found.servers if server.backend not in _local(found)]
    for server in away:
        yield f"Leaves your network: every prompt that {server.backend} answers, at {host_of(server.endpoint)}."
    handing_on = [server for server in found.servers if server.remote and server not in away]
    for server in handing_on:
        remote = ", ".join(f"{model.name} (it runs at {_place(model)})" for model in server.remote[:8])
        yield f"Leaves your network: what a client asks {server.backend} for by the name of {remote}."
    hosts = " or ".join(host_of(BACKEND_TYPES[kind].default_endpoint or "") for kind in found.hosted)
    first = found.servers[0].backend if found.servers else ""
    if not found.hosted and not away and not handing_on:
        yield "Leaves your network: nothing; no hosted backend is in the policy."
    elif found.hosted and not first:
        yield f"Leaves your network: every prompt that is answered, for {hosts}. No model server was found here."
    elif found.hosted:
        images = " images, because no local model sees;" if _is_blind(found) else ""
        what = f"hard prompts (`difficulty` of {_HARD:g} or more);{images} what {first} fails to answer"
        yield f"Leaves your network, for {hosts}: {what}."
        yield f"To keep everything here, take {' and '.join(found.hosted)} out of `backends`, `routes` and `aliases`."


def _names(found: Found) -> list[str]:
    """Return the backends in the order in which they are tried."""
    return [server.backend for server in found.servers] + list(found.hosted) or ["echo"]


def _local(found: Found) -> list[str]:
    """Return the backends that may see private requests."""
    if not found.servers and not found.hosted:
        return ["echo"]
    return [server.backend for server in found.servers if _is_local(server)]


def _hard(found: Found) -> str:
    names = [*found.hosted, *(server.backend for server in found.servers)]
    return _route(f"difficulty: {{min: {_HARD:g}}}", names, "too hard for most small models", _LEAVES)


def _aliases(found: Found) -> str:
    """Return aliases for hosted models that clients have built in: as pins they would go past the routes."""
    if "openai" not in found.hosted or not found.servers:
        return ""
    return _ALIASES


def _is_local(server: Server) -> bool:
    """Return False for a server at a public address, or at a name that leads to one.  For a hosted kind the policy says
    `local: true`, because it was found on this machine."""
    kind = BACKEND_TYPES[server.type]
    host = host_name(server.endpoint)
    return judge(kind.type, kind.hosted, kind.hosted or None, host, server.addresses).local is not False


def _elsewhere(found: Found) -> Iterator[str]:
    """A route for what the first server has no model for, and another one has."""
    has = {server.backend: families(server.models) for server in found.servers}
    first, *others = [server.backend for server in found.servers] or [""]
    for family, condition in (("qwen-coder", "task: code"), ("gemma", "modality: image")):
        better = [name for name in others if family in has[name]]
        if better and family not in has[first]:
            yield _route(condition, [better[0], first], "")
    if found.hosted and _is_blind(found):
        yield _route("modality: image", list(found.hosted), "no local model sees", _LEAVES)


def _is_blind(found: Found) -> bool:
    """Return True when there are servers, and none has a model that sees."""
    return bool(found.servers) and not any("gemma" in families(server.models) for server in found.servers)


def _route(condition: str, names: Sequence[str], reason: str, comment: str = "") -> str:
    because = f"    reason: {reason}\n" if reason else ""
    return f"  - match: {{{condition}}}{comment}\n    backend: {names[0]}\n{_fallback(names[1:])}{because}"


def _fallback(names: Sequence[str]) -> str:
    listed = f"    fallback: [{', '.join(names)}]"
    return f"{listed:32} # tried in order when it fails\n" if names else ""


def _server(server: Server) -> str:
    chosen = families(server.models)
    default = chosen.get("llama") or best(server.models).name
    studio = BACKEND_TYPES[server.type].hosted
    lines = [f"  {server.backend}:", f"    type: {server.type}"]
    lines += ["    local: true                  # it runs on this machine", '    apiKeyEnv: ""'] if studio else []
    lines += [f"    endpoint: {server.endpoint}", f'    model: "{default}"']
    if len(server.models) > 1:
        lines.append("    families:                    # which model for which kind of request")
        lines += [f'      {family}: "{model}"' for family, model in chosen.items()]
    lines += ["    price: {input: 0, output: 0}"] if _is_local(server) else []
    lines += _windows(server, list(dict.fromkeys((default, *chosen.values()))))
    spare = [model.name for model in server.models if model.name not in (default, *chosen.values())]
    lines += [f"    # there is also {name}" for name in spare[:8]]
    lines += [f"    # {model.name} is left out: it runs at {_place(model)}" for model in server.remote[:8]]
    return "\n".join(lines) + "\n"


def _place(model: Model) -> str:
    return model.remote_host or "its maker's cloud"


def _windows(server: Server, named: Sequence[str]) -> list[str]:
    """What is known of the windows of the models that the policy names."""
    known = {model.name: model.window for model in server.models if model.name in named and model.window}
    if len(known) == len(named) and len(set(known.values())) == 1:
        return [f"    contextWindow: {known[named[0]]:<13} # what does not fit is not sent here"]
    lines = ["    contextWindow:               # what does not fit is not sent here"] if known else []
    lines += [f'      "{name}": {window}' for name, window in known.items()]
    untold = server.type == "ollama" and len(known) < len(named)
    return lines + (_UNTOLD_MAP if known else _UNTOLD) if untold else lines


_UNTOLD = [
    "    # contextWindow: 16384       # Ollama does not say what it gives a model before it is loaded, and cuts longer",
    "                                 # prompts; say it here (`flask doctor` tells), and they are not sent there",
]
_UNTOLD_MAP = ['      # "*": 16384               # the others: Ollama does not say before they are loaded']
_HEAD = """\
# Written by `flask init`. Every key is explained in policy.example.yaml and docs/policy.md.
# After a change: `flask policy check`, then send the router SIGHUP. `flask doctor` says what could be better.
#
"""
_HARD = Cuts().high
_ROUTES = """
routes:                          # top to bottom, the first match wins
"""
_ECHO = """\
  echo:
    type: echo                   # needs nothing and is no model: it repeats your words
    # Next step: install Ollama, `ollama pull` a model, delete this file and run `flask init` again.
"""
_HOSTED = {
    "openai": """\
  openai:
    type: openai                 # hosted: private requests never go there
    model: gpt-4o-mini           # key from OPENAI_API_KEY
    # price: {input: …, output: …}   # USD per million tokens, from OpenAI's price list; until then the cost is unknown
""",
    "sarmalink": """\
  sarmalink:
    type: sarmalink              # hosted: private requests never go there
    model: smart                 # key from SARMALINK_API_KEY
    # price: {input: …, output: …}   # USD per million tokens, from its price list; until then the cost is unknown
""",
}
_LEAVES = "   # leaves your network"
_ALIASES = """
aliases:                         # names that clients have built in: routed like all others, not past the routes
  gpt-4o: auto
  gpt-4o-mini: auto              # `openai/gpt-4o-mini` still goes there
"""
_PRIVATE = "   # requests with the header X-LLR-Sensitivity: high"
_SENSITIVITY = """
sensitivity:                     # a request is private too when a key, a password, a card or account number is in it
  detect: recommended            # docs/policy.md says what each detector finds; more: [recommended, email, phone]
"""
_NO_LOCAL = """\
  # Without a local backend, requests with X-LLR-Sensitivity: high are refused (503).
"""
