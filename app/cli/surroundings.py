"""Find what a first policy can route to: model servers on this machine, and API keys in the environment."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from app.backends import BACKEND_TYPES
from app.backends.base import Backend
from app.backends.model_hosts import host_said
from app.backends.ollama_facts import named
from app.beliefs.local import resolve
from app.cli.common import counted
from app.errors import BackendError
from app.routing.locality import host_name, is_cloud_model, model_key
from app.types import BackendConfig, JsonObject, ModelFacts, Timeouts

_TIMEOUT_S = 1.5  # for each step of a request; all servers are asked in parallel
_NO_CHAT = ("embed", "bge-", "minilm", "rerank")  # parts of the names of models that do not chat
_NO_FACTS = ModelFacts()
_KEYS = (
    ("openai", "OPENAI_API_KEY"),
    ("anthropic", "ANTHROPIC_API_KEY"),
    ("sarmalink", "SARMALINK_API_KEY"),
)
_NO_KEYS = ("", "none")  # clients of the router are often told to send the key `none`


@dataclass(frozen=True, slots=True)
class Model:
    """Hold what a server tells about one of its models."""

    name: str
    size_bytes: int = 0  # 0 = unknown
    reads_images: bool = False  # by its parts, in versions that tell no capabilities
    capabilities: frozenset[str] | None = None  # of types.CAPABILITIES; None = the server does not tell
    window: int | None = None  # context window in tokens with which the server runs it; None = unknown
    trained: int | None = None  # context window in tokens that it was trained for
    places: int | None = None  # calls that the server runs at the same time; None = unknown
    remote_host: str = ""  # the other host that runs the model; "" = the server runs it

    def can(self, capability: str) -> bool | None:
        """Return whether the model has a capability, by the server's own word; None = the server does not tell."""
        return None if self.capabilities is None else capability in self.capabilities


@dataclass(frozen=True, slots=True)
class Server:
    """Represent a model server, or a place where one may be (then it has no models)."""

    backend: str  # the name of the backend in the policy
    type: str
    title: str
    endpoint: str
    models: tuple[Model, ...] = ()  # chat models that the server runs
    remote_models: tuple[Model, ...] = ()  # chat models that the server forwards to another host
    addresses: tuple[str, ...] | None = None  # of the host of `endpoint`; None = unknown


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Hold everything that a first policy can use."""

    servers: tuple[Server, ...] = ()  # servers with models
    hosted: tuple[str, ...] = ()  # types of hosted backends whose key is set
    notes: tuple[str, ...] = ()  # lines for the terminal and the file


LOCAL_SERVERS = (
    Server("llamacpp", "llamacpp", "llama.cpp", "http://127.0.0.1:8080"),
    Server("vllm", "vllm", "vLLM", "http://127.0.0.1:8000"),
    Server("lmstudio", "openai", "LM Studio", "http://127.0.0.1:1234/v1"),
)
_OWNERS = {"llamacpp": LOCAL_SERVERS[0], "vllm": LOCAL_SERVERS[1], "organization_owner": LOCAL_SERVERS[2]}


def explore(environ: Mapping[str, str], local_servers: Sequence[Server] = LOCAL_SERVERS) -> Surroundings:
    """Ask Ollama (OLLAMA_HOST) and the default ports of this machine in parallel, and look for keys in the environment.

    This takes a few seconds at most, asks no other server, and makes no server load a model."""
    ollama = Server("local", "ollama", "Ollama", ollama_endpoint(environ.get("OLLAMA_HOST", "")))
    with ThreadPoolExecutor(max_workers=1 + len(local_servers)) as pool:
        answer = pool.submit(_ask_ollama, ollama)
        others = [server for server in pool.map(_ask, local_servers) if server is not None]
        ollama, note = answer.result()
    others = list({server.backend: server for server in others}.values())
    servers = (*((ollama,) if ollama.models else ()), *others)
    hosted = tuple(kind for kind, name in _KEYS if environ.get(name, "").strip().lower() not in _NO_KEYS)
    notes = (
        note,
        *(f"{other.title} at {other.endpoint} has {counted(len(other.models), 'model')}" for other in others),
    )
    return Surroundings(servers, hosted, notes)


def _backend(server: Server) -> Backend:
    kind = BACKEND_TYPES[server.type]
    endpoint = kind.normal_endpoint(server.endpoint)
    timeouts = Timeouts(_TIMEOUT_S, _TIMEOUT_S, _TIMEOUT_S)
    local = kind.hosted or None  # LM Studio's type is hosted, and this one is on this machine
    config = BackendConfig(name=server.backend, type=server.type, endpoint=endpoint, timeouts=timeouts, local=local)
    return kind(config, {})


def _ask_ollama(server: Server) -> tuple[Server, str]:
    """Return the server with its models, and a note."""
    backend = _backend(server)
    try:
        listed = backend.ask("/api/tags")
        entries = named(listed)
        models = [_model(entry) for entry in entries if _chats(str(entry["name"]))]
        remote = tuple(model for model in models if model.remote_host or is_cloud_model(model.name))
        local = _described(backend, listed, [model for model in models if model not in remote])
    except BackendError as error:
        return server, f"no Ollama: {error.message}"
    finally:
        backend.close()
    note = f"Ollama at {server.endpoint} has {counted(len(entries), 'model')}"
    places = [f"{model.name} at {model.remote_host}" for model in remote if model.remote_host]
    note += f"; other hosts run {', '.join(places)}" if places else ""
    addresses = tuple(resolve(host_name(server.endpoint)))
    return replace(server, models=local, remote_models=remote, addresses=addresses), note


def _described(backend: Backend, listed: JsonObject, models: Sequence[Model]) -> tuple[Model, ...]:
    """Return the models with what the server tells about them, without those that do not chat."""
    backend.learn_list(listed)
    with contextlib.suppress(BackendError):
        backend.ask_for_facts([model.name for model in models])
    return tuple(
        replace(
            model,
            capabilities=facts.capabilities,
            window=facts.window,
            trained=facts.trained,
            places=facts.places,
        )
        for model in models
        if (facts := backend.facts.get(model_key(model.name), _NO_FACTS)).capabilities is None
        or "completion" in facts.capabilities
    )


def _model(entry: JsonObject) -> Model:
    """Read an entry of /api/tags.  A model with a part called clip or mllama reads images."""
    details = entry.get("details")
    parts = (details.get("families") or ()) if isinstance(details, Mapping) else ()
    size = entry.get("size")
    return Model(
        name=str(entry["name"]),
        size_bytes=size if isinstance(size, int) else 0,
        reads_images=bool({"clip", "mllama"} & set(map(str, parts))),
        remote_host=host_said(entry),
    )


def _chats(name: str) -> bool:
    """Return False for the name of a model that does not chat, or one that a policy cannot hold in one line."""
    return name.isprintable() and not any(word in name.lower() for word in _NO_CHAT)


def _ask(server: Server) -> Server | None:
    """Return the server at a default port, with the type that it reports; None when there is none, or a router."""
    backend = _backend(server)
    try:
        listed = backend.ask(backend.models_path)
    except BackendError:
        return None
    finally:
        backend.close()
    entries = listed.get("data")
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) and "id" in entry for entry in entries):
        return None
    owners = {str(entry.get("owned_by")) for entry in entries}
    names = [str(entry["id"]) for entry in entries if _chats(str(entry["id"]))]
    if not names or "router" in owners:
        return None
    kind = next((_OWNERS[owner] for owner in sorted(owners) if owner in _OWNERS), server)
    endpoint = server.endpoint.removesuffix("/v1") + ("/v1" if kind.type == "openai" else "")
    server = replace(kind, endpoint=endpoint)
    backend = _backend(server)
    models = _described(backend, listed, [Model(name) for name in names])
    backend.close()
    return replace(server, models=models) if models else None


def ollama_endpoint(host: str) -> str:
    """Return the endpoint of OLLAMA_HOST, which may be host, host:port, :port or URL; 0.0.0.0 means this machine."""
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
