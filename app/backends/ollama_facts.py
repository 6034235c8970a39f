"""Hold the facts that an Ollama tells about its models.

/api/tags lists the models, /api/show describes one of them, /api/ps lists the loaded ones.  Models with the same
weights and the same options of the runner share one runner, and /api/ps names only one of them.  Facts: docs/api.md,
api/types.go, server/routes.go and server/sched.go of https://github.com/ollama/ollama, versions 0.17 and 0.33.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice

from app.backends.base import entries_of
from app.backends.fact_values import capabilities, size_bytes, smallest, tokens
from app.backends.model_hosts import host_said
from app.routing.locality import is_cloud_model, model_key
from app.types import JsonObject, ModelFacts, Residency, Turnover

_MOST_MODELS = 10_000
_DIGEST = re.compile(r"(?:sha256[:-])?([0-9a-f]{64})")
# A line of a Modelfile names the weights: `FROM /models/blobs/sha256-…`.  Adapters and the options of the runner are
# parts of a runner too.
_FILE = re.compile(r"^(FROM|ADAPTER)[ \t]+(\S{1,4096})", re.MULTILINE)
_OPTION = re.compile(r"^(num_ctx|num_batch|num_gpu|main_gpu|num_thread|use_mmap)[ \t]+(\S{1,20})", re.MULTILINE)
_STAYS_S = 100 * 365 * 86_400  # a model with an expiry that is later than this stays


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    """Hold an entry of /api/tags."""

    name: str
    digest: str = ""  # "" = unknown
    capabilities: frozenset[str] | None = None
    trained: int | None = None  # tokens
    size_bytes: int | None = None
    remote: bool = False  # another host runs it: this server does not load it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Description:
    """Hold the part of /api/show that /api/tags lacks."""

    runner: tuple[tuple[str, str], ...] = ()  # models with the same one share a runner; empty = unknown
    num_ctx: int | None = None  # of the Modelfile
    trained: int | None = None


@dataclass(frozen=True, slots=True)
class _Loaded:
    """Hold the part of an entry of /api/ps that decisions depend on."""

    name: str
    digest: str
    window: int | None


_UNDESCRIBED = _Description()


class OllamaFacts:
    """Hold the answers of one server.  `by_model` and `residency` are replaced as a whole when they change."""

    def __init__(
        self,
        wanted_window: Callable[[str], int | None],
        refuses: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wanted_window` returns the window that requests ask for; None = the server's own.  `refuses` returns True
        when the server never cuts a prompt, and `clock` monotonic seconds."""
        self._clock = clock
        self.by_model: Mapping[str, ModelFacts] = {}  # by model_key
        self.residency: Mapping[str, Residency] = {}  # by name
        self.turnover: Mapping[str, Turnover] = {}  # by name
        self.tells_loaded = True  # False: what it says is loaded has proved wrong, so it counts as not told
        self.told_at = 0.0  # when the server last told which models are loaded, Unix s
        self._wanted_window = wanted_window
        self._refuses = refuses
        self._listed: dict[str, _Listed] = {}  # by model_key
        self._descriptions: dict[tuple[str, str], _Description] = {}  # by model_key and digest
        self._loaded: dict[str, _Loaded] | None = None  # by model_key; None = unknown
        self._uses: dict[str, tuple[str, float]] = {}  # by model_key: the expiry, and since when it is the same
        self._loading: set[str] = set()  # by model_key; /api/ps lists a model from the begin of its load
        self._ready: Mapping[str, _Loaded] = {}  # loaded, and not still loading
        self._by_digest: Mapping[str, _Loaded] = {}
        self._by_runner: Mapping[tuple[tuple[str, str], ...], _Loaded] = {}
        self._last_windows: dict[str, int] = {}  # the windows that models had when they were loaded last
        self._granted: dict[str, int] = {}  # the windows that models got although a request asked for another one

    def learn_list(self, document: JsonObject) -> None:
        """Read /api/tags."""
        entries = islice(named(document), _MOST_MODELS)
        self._listed = {model_key(str(entry["name"])): _listed(entry) for entry in entries}
        for windows in (self._last_windows, self._granted):
            for key in windows.keys() - self._listed.keys():
                del windows[key]
        current = {(key, listed.digest) for key, listed in self._listed.items()}
        self._descriptions = {key: value for key, value in self._descriptions.items() if key in current}
        self._renew()

    def to_describe(self, first: Iterable[str]) -> Iterator[str]:
        """Return the names of models without a description: those in `first`, then the loaded ones, then the others.
        Without a digest nothing tells that a description is out of date, so only those in `first` may lack it."""
        wanted = dict.fromkeys(map(model_key, first))
        for key in dict.fromkeys([*wanted, *(self._loaded or ()), *self._listed]):
            listed = self._listed.get(key)
            if listed is None or listed.remote or self._description(key) is not _UNDESCRIBED:
                continue
            if listed.digest or key in wanted:
                yield listed.name

    def learn_descriptions(self, documents: Mapping[str, JsonObject]) -> None:
        """Read /api/show of models, by their names."""
        for name, document in documents.items():
            key = model_key(name)
            if key in self._listed:
                self._descriptions[key, self._listed[key].digest] = _description(document)
        if documents:
            self._renew()

    def learn_loaded(self, document: JsonObject | None) -> None:
        """Read /api/ps; None = the server does not tell which models are loaded."""
        if document is None or not isinstance(document.get("models"), list):
            self._loaded, self.residency = None, {}
            self._granted.clear()  # it may start again with other settings
            self._renew()
            return
        self.told_at = time.time()
        entries = list(islice(named(document), _MOST_MODELS))
        self._note_uses(entries)
        self.tells_loaded = self.tells_loaded or bool(entries)
        loaded = {model_key(str(entry["name"])): _loaded(entry) for entry in entries}
        self.residency = {str(entry["name"]): _residency(entry) for entry in entries}
        if loaded != self._loaded:
            self._count(self._loaded, loaded)
            self._loaded = loaded
            self._renew()

    def unused_s(self, model: str) -> float:
        """Return for how long the expiry of a loaded model has not moved; the end of each request moves it."""
        use = self._uses.get(model_key(model))
        return 0.0 if use is None else self._clock() - use[1]

    def _note_uses(self, entries: Iterable[JsonObject]) -> None:
        uses = {}
        for entry in entries:
            key, expiry = model_key(str(entry["name"])), str(entry.get("expires_at"))
            earlier = self._uses.get(key)
            uses[key] = earlier if earlier is not None and earlier[0] == expiry else (expiry, self._clock())
        self._uses = uses

    def doubt_loaded(self) -> None:
        """Note that models answer although /api/ps lists none, as at servers that only imitate an Ollama.  It counts
        again when it lists one."""
        if not self._loaded:
            self.tells_loaded = False
            self._renew()

    def begin_load(self, model: str) -> None:
        self._loading.add(model_key(model))
        self._renew()

    def end_load(self, model: str) -> None:
        self._loading.discard(model_key(model))
        self._renew()

    def accept_window(self, model: str) -> None:
        """Note that the server has loaded a model at our request: the window that it has now is the one that such a
        request gets, for example because memory was short."""
        key = model_key(model)
        loaded = self._loaded_as(key)
        if loaded is not None and loaded.window is not None and self._granted.get(key) != loaded.window:
            self._granted[key] = loaded.window
            self._renew()

    def may_change_window(self, model: str) -> bool:
        """Return True for a loaded model whose window may be that of another client, because the server has not
        loaded it at our request: the next request may change the window."""
        key = model_key(model)
        return key not in self._granted and self._wanted_window(model) is None and self._loaded_as(key) is not None

    # --- the facts ---

    def _renew(self) -> None:
        loaded = {key: one for key, one in (self._loaded or {}).items() if key not in self._loading}
        self._ready = loaded
        self._by_digest = {one.digest: one for one in loaded.values() if one.digest}
        runners = {self._description(key).runner: one for key, one in loaded.items()}
        self._by_runner = {runner: one for runner, one in runners.items() if runner}
        facts = {key: self._facts(key, listed) for key, listed in self._listed.items()}
        if facts != self.by_model:
            self.by_model = facts

    def _facts(self, key: str, listed: _Listed) -> ModelFacts:
        description = self._description(key)
        trained = listed.trained or description.trained
        facts = ModelFacts(
            refuses=self._refuses(),
            capabilities=listed.capabilities,
            size_bytes=listed.size_bytes,
            trained=trained,
        )
        if listed.remote:
            return facts
        num_ctx = self._wanted_window(listed.name)
        wanted = smallest(num_ctx, trained) if num_ctx else None
        loaded, granted = self._loaded_as(key), self._granted.get(key)
        if loaded is not None and loaded.window is not None:
            self._last_windows[key] = loaded.window
            if loaded.window in (wanted, granted) or (wanted is None and granted is None):
                return replace(facts, loaded=True, window=smallest(loaded.window, wanted))
            loaded = None  # with the window of another client: our next request makes the server load it again
        own = granted or description.num_ctx or self._last_windows.get(key)
        believed = smallest(wanted, granted) if wanted else own
        return replace(
            facts,
            loaded=loaded is not None if self._loaded is not None and self.tells_loaded else None,
            window=smallest(believed, trained) if believed else None,
        )

    def _loaded_as(self, key: str) -> _Loaded | None:
        """Return the loaded model whose runner serves a model: the model itself, or another name of it."""
        loaded, listed = self._ready.get(key), self._listed.get(key)
        if loaded is not None or listed is None:
            return loaded
        return self._by_digest.get(listed.digest) or self._by_runner.get(self._description(key).runner)

    def _description(self, key: str) -> _Description:
        listed = self._listed.get(key)
        return self._descriptions.get((key, listed.digest), _UNDESCRIBED) if listed else _UNDESCRIBED

    def _count(self, before: Mapping[str, _Loaded] | None, now: Mapping[str, _Loaded]) -> None:
        """Count the loads and evictions between two answers.  A model with another window was loaded again."""
        if before is None:
            return
        turnover = dict(self.turnover)
        for name in (one.name for one in before.values() if now.get(model_key(one.name)) != one):
            turnover[name] = replace(count := turnover.get(name, Turnover()), evictions=count.evictions + 1)
        for name in (one.name for one in now.values() if before.get(model_key(one.name)) != one):
            turnover[name] = replace(count := turnover.get(name, Turnover()), loads=count.loads + 1)
        self.turnover = dict(islice(turnover.items(), _MOST_MODELS))


# --- the server's documents ---


def named(document: JsonObject) -> list[JsonObject]:
    """Return the entries of models that have a name."""
    return [entry for entry in entries_of(document, "models") if entry.get("name")]


def _listed(entry: JsonObject) -> _Listed:
    details = entry.get("details")
    name = str(entry["name"])
    return _Listed(
        name=name,
        digest=_digest(entry.get("digest")),
        capabilities=capabilities(entry.get("capabilities")),
        trained=tokens(details.get("context_length")) if isinstance(details, Mapping) else None,
        size_bytes=size_bytes(entry.get("size")),
        remote=bool(host_said(entry)) or is_cloud_model(name),
    )


def _description(document: JsonObject) -> _Description:
    parameters, info = document.get("parameters"), document.get("model_info")
    options = dict(_pairs(_OPTION, parameters))
    files = sorted(_pairs(_FILE, document.get("modelfile")))
    num_ctx = options.get("num_ctx", "")
    return _Description(
        runner=(*files, *sorted(options.items())) if files else (),
        num_ctx=tokens(int(num_ctx)) if num_ctx.isascii() and num_ctx.isdigit() else None,
        trained=_trained(info) if isinstance(info, Mapping) else None,
    )


def _pairs(pattern: re.Pattern[str], text: object) -> Iterator[tuple[str, str]]:
    return ((match[1], match[2]) for match in pattern.finditer(text if isinstance(text, str) else ""))


def _trained(info: JsonObject) -> int | None:
    """Return the trained window, whose name begins with that of the architecture: `llama.context_length`."""
    return tokens(info.get(f"{info.get('general.architecture')}.context_length"))


def _loaded(entry: JsonObject) -> _Loaded:
    return _Loaded(str(entry["name"]), _digest(entry.get("digest")), tokens(entry.get("context_length")))


def _residency(entry: JsonObject) -> Residency:
    size = size_bytes(entry.get("size"))
    on_gpu = 0 if entry.get("size_vram") == 0 else smallest(size_bytes(entry.get("size_vram")), size)
    return Residency(
        size_bytes=size,
        gpu_bytes=on_gpu,
        expires_at=_unix_s(entry.get("expires_at")),
        window=tokens(entry.get("context_length")),
    )


def _digest(value: object) -> str:
    match = _DIGEST.fullmatch(value) if isinstance(value, str) else None
    return match[1] if match else ""


def _unix_s(value: object) -> float | None:
    """Return the time of an RFC 3339 text; None for a time without a meaning, or so far away that the model stays."""
    try:
        at = datetime.fromisoformat(value).timestamp() if isinstance(value, str) else 0.0
    except (ValueError, OverflowError, OSError):
        return None
    return at if 0 < at < datetime.now().timestamp() + _STAYS_S else None
