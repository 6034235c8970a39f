"""The first policy: what is there to route to, and a commented file that uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from app.backends import BACKEND_TYPES
from app.errors import BackendError
from app.routing.locality import is_address, is_cloud_model, is_inside
from app.types import BackendConfig, Timeouts

_WAIT_S = 2.0
_VISION = ("vision", "llava", "-vl", "gemma3", "minicpm-v", "moondream")
_NO_CHAT = ("embed", "bge-", "minilm", "rerank")


@dataclass(frozen=True, slots=True)
class Found:
    """What `flask init` saw: an Ollama with models (or none), and hosted backends whose key is set."""

    ollama: str
    models: tuple[str, ...]
    hosted: tuple[str, ...]  # types
    note: str


def look_around(environ: Mapping[str, str]) -> Found:
    """Asks Ollama for its models (2 s at most); looks for keys in the environment.  Asks nobody else."""
    endpoint = ollama_endpoint(environ.get("OLLAMA_HOST", ""))
    kind = BACKEND_TYPES["ollama"]
    config = BackendConfig(
        name="local",
        type="ollama",
        endpoint=kind.normal_endpoint(endpoint),
        timeouts=Timeouts(_WAIT_S, _WAIT_S, _WAIT_S),
    )
    ollama = kind(config, {})
    try:
        held = ollama.discover()
        note = f"Ollama at {endpoint} holds {len(held)} models"
    except BackendError as error:
        held, note = (), f"no Ollama: {error.message}"
    finally:
        ollama.close()
    models = tuple(name for name in held if not is_cloud_model(name) and not any(word in name for word in _NO_CHAT))
    keys = (("openai", "OPENAI_API_KEY"), ("sarmalink", "SARMALINK_API_KEY"))
    return Found(endpoint, models, tuple(kind for kind, name in keys if environ.get(name, "").strip()), note)


def ollama_endpoint(host: str) -> str:
    """OLLAMA_HOST as Ollama itself reads it: a host, a host:port, a :port or a URL; 0.0.0.0 means this machine."""
    scheme, _, rest = host.strip().rpartition("://")
    if rest.count(":") > 1 and "[" not in rest:
        rest = f"[{rest}]"
    try:
        parts = urlsplit(f"//{rest}")
        name, port = parts.hostname or "", parts.port
    except ValueError:
        return "http://localhost:11434"
    name = "localhost" if name in ("", "0.0.0.0", "::") else f"[{name}]" if ":" in name else name
    port = port or (None if scheme else 11434)
    return f"{scheme or 'http'}://{name}" + (f":{port}" if port else "") + parts.path.rstrip("/")


def families(models: tuple[str, ...]) -> dict[str, str]:
    """Which model serves which family, by name: coders, those that see, and the first of the rest."""
    chosen: dict[str, str] = {}
    for model in models:
        name = model.lower()
        if "code" in name:
            chosen.setdefault("qwen-coder", model)
        elif any(word in name for word in _VISION):
            chosen.setdefault("gemma", model)
        else:
            chosen.setdefault("llama", model)
    return chosen


def write(found: Found) -> str:
    """The text of a policy for what was found."""
    local = _ollama(found) if found.models else "" if found.hosted else _ECHO
    first = "local" if found.models else found.hosted[0] if found.hosted else "echo"
    fallbacks = [kind for kind in found.hosted if kind != first]
    fallback = f"\n    fallback: [{', '.join(fallbacks)}]        # tried in order when it fails" if fallbacks else ""
    private = _PRIVATE.format(first=first) if _has_local(found) else _NO_LOCAL
    hosted = "".join(_HOSTED[kind] for kind in found.hosted)
    routes = f"routes:                          # top to bottom, the first match wins\n{private}"
    return f"{_HEAD}backends:\n{local}{hosted}\n{routes}  - default: {first}{fallback}\n"


def _has_local(found: Found) -> bool:
    """Whether private requests have a place to go: an Ollama that is not at a public address, or the echo."""
    host = urlsplit(found.ollama).hostname or ""
    return not (is_address(host) and not is_inside(host)) if found.models else not found.hosted


_HEAD = """\
# Written by `flask init`. Every key is explained in policy.example.yaml and docs/policy.md.
# After a change: `flask policy check`, then send the router SIGHUP.

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
_PRIVATE = """\
  - match: {{sensitivity: high}}   # requests with the header X-LLR-Sensitivity: high
    backend: {first}
    reason: never leaves the machine
"""
_NO_LOCAL = """\
  # Without a local backend, requests with X-LLR-Sensitivity: high are refused (503).
"""


def _ollama(found: Found) -> str:
    chosen = families(found.models)
    default = chosen.get("llama") or found.models[0]
    lines = "".join(f'      {family}: "{model}"\n' for family, model in chosen.items())
    return (
        f"  local:\n    type: ollama\n    endpoint: {found.ollama}\n"
        f'    model: "{default}"\n    families:                    # which model for which kind of request\n{lines}'
    )
