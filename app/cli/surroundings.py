"""What a first policy can route to: model servers on this machine, and keys in the environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from app.backends import BACKEND_TYPES
from app.backends.base import Backend, entries_of
from app.backends.ollama import host_said
from app.background.observe import resolve
from app.errors import BackendError
from app.routing.locality import host_name, is_cloud_model
from app.types import BackendConfig, Timeouts

_WAIT_S = 1.5  # for each step of asking; all servers are asked at once
_NO_CHAT = ("embed", "bge-", "minilm", "rerank")
_KEYS = (("openai", "OPENAI_API_KEY"), ("sarmalink", "SARMALINK_API_KEY"))


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    size_bytes: int = 0  # 0 = not told
    sees: bool = False  # the server says so
    window: int | None = None  # tokens it runs with, where the server tells
    remote_host: str = ""  # the host that runs it, where the server names another


@dataclass(frozen=True, slots=True)
class Server:
    """A model server that answered, or was looked for in vain (no models)."""

    backend: str  # its name in the policy
    type: str
    title: str
    endpoint: str
    models: tuple[Model, ...] = ()  # those that chat, and run there
    remote: tuple[Model, ...] = ()  # those that chat, and run at another host
    addresses: tuple[str, ...] | None = None  # what the host of `endpoint` resolves to; None = nobody looked


@dataclass(frozen=True, slots=True)
class Found:
    servers: tuple[Server, ...] = ()  # with models
    hosted: tuple[str, ...] = ()  # types of hosted backends whose key is set
    notes: tuple[str, ...] = field(default=())


LOCAL_SERVERS = (
    Server("llamacpp", "llamacpp", "llama.cpp", "http://127.0.0.1:8080"),
    Server("vllm", "vllm", "vLLM", "http://127.0.0.1:8000"),
    Server("lmstudio", "openai", "LM Studio", "http://127.0.0.1:1234/v1"),
)
_OWNERS = {"llamacpp": LOCAL_SERVERS[0], "vllm": LOCAL_SERVERS[1], "organization_owner": LOCAL_SERVERS[2]}


def look_around(environ: Mapping[str, str], local_servers: Sequence[Server] = LOCAL_SERVERS) -> Found:
    """Asks Ollama (OLLAMA_HOST) and the usual ports of this machine, all at once, some seconds at most; looks for keys
    in the environment.  Asks nobody else, and has no model loaded."""
    context = environ.get("OLLAMA_CONTEXT_LENGTH", "").strip()
    ollama = Server("local", "ollama", "Ollama", ollama_endpoint(environ.get("OLLAMA_HOST", "")))
    with ThreadPoolExecutor(max_workers=1 + len(local_servers)) as pool:
        asked = pool.submit(_ask_ollama, ollama, int(context) if context.isdecimal() else 0)
        others = [server for server in pool.map(_ask, local_servers) if server is not None]
        first, note = asked.result()
    named = tuple({server.backend: server for server in others}.values())
    servers = (*((first,) if first.models else ()), *named)
    hosted = tuple(kind for kind, name in _KEYS if environ.get(name, "").strip())
    notes = (note, *(f"{one.title} at {one.endpoint} serves {_several(one.models)}" for one in named))
    return Found(servers, hosted, notes)


def _several(models: Sequence[object]) -> str:
    return f"{len(models)} model{'s' if len(models) != 1 else ''}"


def _backend(server: Server) -> Backend:
    kind = BACKEND_TYPES[server.type]
    endpoint = kind.normal_endpoint(server.endpoint)
    timeouts = Timeouts(_WAIT_S, _WAIT_S, _WAIT_S)
    return kind(BackendConfig(name=server.backend, type=server.type, endpoint=endpoint, timeouts=timeouts), {})


def _ask_ollama(server: Server, context: int) -> tuple[Server, str]:
    """`context`: tokens that OLLAMA_CONTEXT_LENGTH gives a model that says nothing itself; 0 = it is not set."""
    backend = _backend(server)
    try:
        entries = [entry for entry in entries_of(backend.ask("/api/tags"), "models") if entry.get("name")]
        models = [_model(entry) for entry in entries if _chats(str(entry["name"]))]
        remote = tuple(model for model in models if model.remote_host or is_cloud_model(model.name))
        usable = [model for model in models if model not in remote]
        windows = _windows(backend, [model.name for model in usable])
    except BackendError as error:
        return server, f"no Ollama: {error.message}"
    finally:
        backend.close()
    note = f"Ollama at {server.endpoint} holds {_several(entries)}"
    named = [f"{model.name} at {model.remote_host}" for model in remote if model.remote_host]
    note += f"; not run there: {', '.join(named)}" if named else ""
    known = tuple(replace(model, window=windows.get(model.name) or context or None) for model in usable)
    addresses = tuple(resolve(host_name(server.endpoint)))
    return replace(server, models=known, remote=remote, addresses=addresses), note


def _windows(backend: Backend, names: Sequence[str]) -> dict[str, int]:
    """What the server gives its models, as far as it tells; not every version does."""
    found: dict[str, int] = {}
    for name in names:
        try:
            size = backend.runs_with(name)
        except BackendError as error:
            if error.kind.startswith("http_"):
                continue
            break  # it no longer answers
        if size and size > 0:
            found[name] = size
    return found


def _model(entry: Mapping[str, Any]) -> Model:
    """Read an entry of /api/tags.  A part called clip or mllama is what sees."""
    details = entry.get("details")
    parts = (details.get("families") or ()) if isinstance(details, Mapping) else ()
    size = entry.get("size")
    return Model(
        name=str(entry["name"]),
        size_bytes=size if isinstance(size, int) else 0,
        sees=bool({"clip", "mllama"} & set(map(str, parts))),
        remote_host=host_said(entry),
    )


def _chats(name: str) -> bool:
    return not any(word in name.lower() for word in _NO_CHAT)


def _ask(server: Server) -> Server | None:
    """The server at one of the usual ports, by what it says it is; None when there is none, or when it is a router
    like this one."""
    backend = _backend(server)
    try:
        entries = backend.ask(backend.models_path).get("data")
    except BackendError:
        return None
    finally:
        backend.close()
    if not isinstance(entries, list) or not all(isinstance(one, Mapping) and "id" in one for one in entries):
        return None
    owners = {str(one.get("owned_by")) for one in entries}
    names = [str(one["id"]) for one in entries if _chats(str(one["id"]))]
    if not names or "router" in owners:
        return None
    known = next((_OWNERS[owner] for owner in sorted(owners) if owner in _OWNERS), server)
    at = server.endpoint.removesuffix("/v1") + ("/v1" if known.type == "openai" else "")
    itself = replace(known, endpoint=at)
    backend = _backend(itself)
    windows = _windows(backend, names)
    backend.close()
    return replace(itself, models=tuple(Model(name, window=windows.get(name)) for name in names))


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
