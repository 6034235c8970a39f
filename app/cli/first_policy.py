"""The first policy: a commented text that fits what was found.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from app.backends import BACKEND_TYPES
from app.cli.surroundings import Found, Model, Server
from app.routing.locality import is_address, is_inside

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
    names = [server.backend for server in found.servers] + list(found.hosted)
    local = [server.backend for server in found.servers if _is_inside(server)]
    backends = [*(_server(server) for server in found.servers), *(_HOSTED[kind] for kind in found.hosted)]
    if not names:
        names, local, backends = ["echo"], ["echo"], [_ECHO]
    private = _route("sensitivity: high", local, "never leaves the machine", _PRIVATE) if local else _NO_LOCAL
    default = f"  - default: {names[0]}\n{_fallback(names[1:])}"
    return "".join((_HEAD, "backends:\n", *backends, _ROUTES, private, *_elsewhere(found), default))


def _is_inside(server: Server) -> bool:
    """Whether private requests may go there: not to a public address."""
    host = urlsplit(server.endpoint).hostname or ""
    return not is_address(host) or is_inside(host)


def _elsewhere(found: Found) -> Iterator[str]:
    """A route for what the first server has no model for, and another one has."""
    has = {server.backend: families(server.models) for server in found.servers}
    first, *others = [server.backend for server in found.servers] or [""]
    for family, condition in (("qwen-coder", "task: code"), ("gemma", "modality: image")):
        better = [name for name in others if family in has[name]]
        if first and family not in has[first]:
            if better:
                yield _route(condition, [better[0], first], "")
            elif family == "gemma" and found.hosted:
                yield _route(condition, list(found.hosted), "no local model sees")


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
    lines.append("    price: {input: 0, output: 0}")
    lines += _windows(server, list(dict.fromkeys((default, *chosen.values()))))
    spare = [model.name for model in server.models if model.name not in (default, *chosen.values())]
    lines += [f"    # there is also {name}" for name in spare[:8]]
    return "\n".join(lines) + "\n"


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

"""
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
""",
    "sarmalink": """\
  sarmalink:
    type: sarmalink              # hosted: private requests never go there
    model: smart                 # key from SARMALINK_API_KEY
""",
}
_PRIVATE = "   # requests with the header X-LLR-Sensitivity: high"
_NO_LOCAL = """\
  # Without a local backend, requests with X-LLR-Sensitivity: high are refused (503).
"""
