"""Write the first policy: a text with comments that fits the surroundings.  Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from textwrap import wrap

from app.backends import BACKEND_TYPES
from app.cli.surroundings import Model, Server, Surroundings
from app.routing.locality import host_name, host_of, judge
from app.types import Cuts

_CODE = ("code", "devstral", "codestral")
_VISION = (
    "vision", "llava", "-vl", "vl:", "gemma3", "minicpm-v", "moondream", "pixtral", "llama4", "mistral-small3",
    "internvl", "smolvlm",
)  # fmt: skip
_TEXT_ONLY = ("gemma3:1b", "gemma3:270m", "gemma3n")  # names like those of vision models
_COMFORTABLE_BYTES = 16_000_000_000  # a larger model is too slow or too large for most machines


def families(models: Sequence[Model]) -> dict[str, str]:
    """Return the model for each family: one for code, one for images, one for the rest, each the best of its kind."""
    kinds: dict[str, list[Model]] = {}
    for model in models:
        is_coder = any(word in model.name.lower() for word in _CODE)
        kinds.setdefault("qwen-coder" if is_coder else "gemma" if _reads_images(model) else "llama", []).append(model)
    return {kind: best(members).name for kind, members in kinds.items()}


def _reads_images(model: Model) -> bool:
    """Return whether a model reads images, by the server's own word, else by its parts and its name."""
    name = model.name.lower()
    is_vision_name = any(word in name for word in _VISION) and not name.startswith(_TEXT_ONLY)
    can_see = model.can("vision")
    return model.reads_images or is_vision_name if can_see is None else can_see


def best(models: Sequence[Model]) -> Model:
    """Return the largest model of a comfortable size, else the smallest one; the first one when sizes are unknown.
    Models that cannot use tools count only when no other model is there, because many clients send tools."""
    models = [model for model in models if model.can("tools") is not False] or models
    comfortable = [model for model in models if model.size_bytes <= _COMFORTABLE_BYTES]
    if comfortable:
        return max(comfortable, key=lambda model: model.size_bytes)
    return min(models, key=lambda model: model.size_bytes)


def write(surroundings: Surroundings) -> str:
    """Return the text of a policy for these surroundings."""
    servers, hosted = surroundings.servers, surroundings.hosted
    names, local = backend_names(surroundings), _local(surroundings)
    backends = [*map(_server, servers), *(_HOSTED[kind] for kind in hosted)]
    private = _route("sensitivity: high", local, "never leaves the machine", _PRIVATE) if local else _NO_LOCAL
    default = f"  - default: {names[0]}\n{_fallback(names[1:])}"
    notes = (*surroundings.notes, *describe(surroundings))
    head = [f"# {line}\n" for note in notes for line in wrap(note, 116)]
    hard = [_hard(surroundings)] if servers and hosted else []
    routes = (_ROUTES, private, *_background(surroundings), *hard, *_special_routes(surroundings), default)
    aliases = _ALIASES if servers and "openai" in hosted else ""
    return "".join((_HEAD, *head, "\nbackends:\n", *(backends or [_ECHO]), *routes, aliases, _SENSITIVITY))


def describe(surroundings: Surroundings) -> tuple[str, ...]:
    """Describe the policy in sentences, for the file and for the terminal: the order of tries, and what can leave."""
    first, *others = backend_names(surroundings)
    order = f"Prompts go to {first}" + (f" first; when it fails, to {', then to '.join(others)}." if others else ".")
    private = "those with the header X-LLR-Sensitivity: high, and those in which a detector finds a secret"
    if _local(surroundings):
        rule = f"Private prompts never leave: {private} (`sensitivity`)."
    else:
        rule = f"Private prompts are refused (503), because no backend is local: {private} (`sensitivity`)."
    return (order, *_keys(surroundings), *_leaving(surroundings), rule)


def backend_names(surroundings: Surroundings) -> list[str]:
    """Return the backends in the order of tries."""
    return [server.backend for server in surroundings.servers] + list(surroundings.hosted) or ["echo"]


def _keys(surroundings: Surroundings) -> Iterator[str]:
    for kind in surroundings.hosted:
        yield f"{BACKEND_TYPES[kind].default_key_env} is set, so {kind} is a backend. Its calls cost money."


def _leaving(surroundings: Surroundings) -> Iterator[str]:
    """Yield sentences about the prompts that leave the network, and their destinations."""
    local, servers, hosted = _local(surroundings), surroundings.servers, surroundings.hosted
    remote = [server for server in servers if server.backend not in local]
    for server in remote:
        yield f"Every prompt that {server.backend} answers leaves your network, for {host_of(server.endpoint)}."
    forwarding = [server for server in servers if server.remote_models and server not in remote]
    for server in forwarding:
        models = ", ".join(f"{model.name} (it runs at {_place(model)})" for model in server.remote_models[:8])
        yield f"A prompt leaves your network when a client asks {server.backend} for {models}."
    hosts = " or ".join(host_of(BACKEND_TYPES[kind].default_endpoint or "") for kind in hosted)
    if not hosted and not remote and not forwarding:
        yield "No prompt leaves your network: the policy has no hosted backend."
    elif hosted and not servers:
        yield f"Every prompt leaves your network, for {hosts}: there is no model server on this machine."
    elif hosted:
        images = " prompts with images, because no local model reads images;" if _has_no_vision(surroundings) else ""
        prompts = (
            f"hard prompts (`difficulty` of {_HARD:g} or more);{images} prompts that {servers[0].backend} fails on"
        )
        yield f"These prompts leave your network, for {hosts}: {prompts}."
        yield f"To keep all prompts here, remove {' and '.join(hosted)} from `backends`, `routes` and `aliases`."


def _local(surroundings: Surroundings) -> list[str]:
    """Return the backends that may get private requests."""
    if not surroundings.servers and not surroundings.hosted:
        return ["echo"]
    return [server.backend for server in surroundings.servers if _is_local(server)]


def _hard(surroundings: Surroundings) -> str:
    names = [*surroundings.hosted, *(server.backend for server in surroundings.servers)]
    return _route(f"difficulty: {{min: {_HARD:g}}}", names, "too hard for most small models", _LEAVES)


def _background(surroundings: Surroundings) -> Iterator[str]:
    """Yield a route to the smallest local model, when there are several, for the prompts of programs."""
    models = [(server, model) for server in surroundings.servers if _is_local(server) for model in _chat_models(server)]
    if len(models) < 2:
        return
    server, model = min(models, key=lambda one: one[1].size_bytes or float("inf"))
    others = [name for name in _local(surroundings) if name != server.backend]
    yield (
        "  - match: {purpose: background} # titles, tags and suggestions, which programs ask for by themselves\n"
        f"    backend: {server.backend}\n    model: {_quoted(model.name)}\n{_fallback(others)}"
    )


def _chat_models(server: Server) -> list[Model]:
    return [model for model in server.models if model.can("completion") is not False]


def _is_local(server: Server) -> bool:
    """Return False for a server at a public address, or at a host name that resolves to one.

    For a hosted type the policy says `local: true`, because the server is on this machine."""
    kind = BACKEND_TYPES[server.type]
    host = host_name(server.endpoint)
    return judge(kind.type, kind.hosted, kind.hosted or None, host, server.addresses).local is not False


def _special_routes(surroundings: Surroundings) -> Iterator[str]:
    """Yield routes for code and images when the first server has no model for them, and another server has one."""
    models = {server.backend: families(server.models) for server in surroundings.servers}
    first, *others = [server.backend for server in surroundings.servers] or [""]
    for family, condition in (("qwen-coder", "task: code"), ("gemma", "modality: image")):
        better = [name for name in others if family in models[name]]
        if better and family not in models[first]:
            yield _route(condition, [better[0], first], "")
    if surroundings.hosted and _has_no_vision(surroundings):
        yield _route("modality: image", surroundings.hosted, "no local model reads images", _LEAVES)


def _has_no_vision(surroundings: Surroundings) -> bool:
    """Return True when there are servers, and none has a model that reads images."""
    servers = surroundings.servers
    return bool(servers) and not any("gemma" in families(server.models) for server in servers)


def _route(condition: str, names: Sequence[str], reason: str, comment: str = "") -> str:
    note = f"    reason: {reason}\n" if reason else ""
    return f"  - match: {{{condition}}}{comment}\n    backend: {names[0]}\n{_fallback(names[1:])}{note}"


def _fallback(names: Sequence[str]) -> str:
    key = f"    fallback: [{', '.join(names)}]"
    return f"{key:32} # tried in this order when it fails\n" if names else ""


def _server(server: Server) -> str:
    by_family = families(server.models)
    default = by_family.get("llama") or best(server.models).name
    is_hosted_type = BACKEND_TYPES[server.type].hosted
    lines = [f"  {server.backend}:", f"    type: {server.type}"]
    lines += (
        ["    local: true                  # it runs on this machine", '    apiKeyEnv: ""'] if is_hosted_type else []
    )
    lines += [f"    endpoint: {server.endpoint}", f"    model: {_quoted(default)}"]
    if len(server.models) > 1:
        lines.append("    families:                    # the model for each family of requests")
        lines += [f"      {family}: {_quoted(model)}" for family, model in by_family.items()]
    lines += ["    price: {input: 0, output: 0}"] if _is_local(server) else []
    used = [model for model in server.models if model.name in (default, *by_family.values())]
    lines += [*_places(used), *_windows(server, used)]
    spare = [model.name for model in server.models if model.name not in (default, *by_family.values())]
    lines += [f"    # the server also has {name}" for name in spare[:8]]
    lines += [f"    # {model.name} is left out: it runs at {_place(model)}" for model in server.remote_models[:8]]
    return "\n".join(lines) + "\n"


def _quoted(name: str) -> str:
    """Return a name as a string of YAML, which reads JSON's; the path of a file on Windows has backslashes."""
    return json.dumps(name, ensure_ascii=False)


def _place(model: Model) -> str:
    return model.remote_host or "its maker's cloud"


def _places(models: Sequence[Model]) -> list[str]:
    """Return the line with the calls that the server runs at the same time, when it tells them."""
    places = {model.places for model in models}
    number = next(iter(places)) if len(places) == 1 else None
    return [f"    maxConcurrency: {number:<12} # the server runs so many requests at the same time"] if number else []


def _windows(server: Server, models: Sequence[Model]) -> list[str]:
    """Return the lines about the context windows of the models that the policy names.  Only windows that the server
    told are written; a small window is not, because it would stay when the server gets a larger one."""
    small = [model for model in models if model.window and model.window <= _SMALL_WINDOW < (model.trained or 0)]
    windows = {model.name: model.window for model in models if model.window and model not in small}
    texts = (
        f"Ollama runs {model.name} with {model.window} tokens; it was trained for {model.trained}. `numCtx: 16384` "
        "asks for more."
        for model in small
        if server.type == "ollama"
    )
    notes = [f"    # {line}" for text in texts for line in wrap(text, 112)]
    if len(windows) == len(models) and len(set(windows.values())) == 1:
        return [f"    contextWindow: {windows[models[0].name]:<13} # longer prompts do not go here"]
    lines = ["    contextWindow:               # longer prompts do not go here"] if windows else []
    lines += [f"      {_quoted(name)}: {window}" for name, window in windows.items()]
    is_incomplete = server.type == "ollama" and len(windows) < len(models)
    return lines + ((_LEARNED_OTHERS if windows else _LEARNED) if is_incomplete else []) + notes


_SMALL_WINDOW = 4096  # tokens: Ollama's default where the video memory is below 24 GB
_LEARNED = [
    "    # contextWindow: 16384       # is not needed: the router asks Ollama for the windows of loaded models.",
    "                                 # Write it only to keep longer prompts away from models that are not loaded yet.",
]
_LEARNED_OTHERS = [
    '      # "*": 16384               # is not needed: the router asks Ollama for the windows of loaded models'
]
_HEAD = """\
# `flask init` wrote this file. policy.example.yaml and docs/policy.md explain every key.
# After a change, run `flask policy check` and send SIGHUP to the router. `flask doctor` finds problems.
#
"""
_HARD = Cuts().high
_ROUTES = """
routes:                          # from top to bottom, the first match wins
"""
_ECHO = """\
  echo:
    type: echo                   # needs no server and is no model: it repeats the prompt
    # Next step: install Ollama, `ollama pull` a model, delete this file and run `flask init` again.
"""
_HOSTED = {
    "openai": """\
  openai:
    type: openai                 # hosted: private requests never go here
    model: gpt-4o-mini           # the key is in OPENAI_API_KEY
    # price: {input: …, output: …}   # USD per million tokens; without it the cost is unknown
""",
    "anthropic": """\
  anthropic:
    type: anthropic              # hosted: private requests never go here
    model: claude-haiku-4-5      # the key is in ANTHROPIC_API_KEY
    # price: {input: …, output: …}   # USD per million tokens; without it the cost is unknown
""",
    "sarmalink": """\
  sarmalink:
    type: sarmalink              # hosted: private requests never go here
    model: smart                 # the key is in SARMALINK_API_KEY
    # price: {input: …, output: …}   # USD per million tokens; without it the cost is unknown
""",
}
_LEAVES = "   # leaves your network"
_ALIASES = """
aliases:                         # names that are built into clients; the routes apply to them too
  gpt-4o: auto
  gpt-4o-mini: auto              # `openai/gpt-4o-mini` still goes there
"""
_PRIVATE = "   # requests with the header X-LLR-Sensitivity: high"
_SENSITIVITY = """
sensitivity:                     # a request with a key, a password, a card or account number is private too
  detect: recommended            # docs/policy.md describes the detectors; to add some: [recommended, email, phone]
"""
_NO_LOCAL = """\
  # There is no local backend, so requests with X-LLR-Sensitivity: high are refused (503).
"""
