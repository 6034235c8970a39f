"""Ollama, by its own API or by the OpenAI-compatible one.

The second cuts a prompt that does not fit into the context window, without an error.  So does the first, but not when a
request says `truncate: false`, which versions from 0.12.6 on read.  Facts: docs/api.md, docs/openai.md, api/types.go,
server/routes.go of https://github.com/ollama/ollama, versions 0.17 and 0.33.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice

from gevent.event import Event

from app.backends.base import V1_PATHS, Backend, entries_of
from app.backends.model_hosts import ModelHosts, host_said
from app.backends.ollama_facts import OllamaFacts, named
from app.backends.ollama_loads import Loads
from app.backends.pool import ConnectionPool
from app.backends.reply import Stream, Whole
from app.errors import (
    BackendDenied,
    BackendError,
    BackendProtocol,
    BackendRateLimited,
    BackendRejected,
    BackendServerError,
    PrivacyViolation,
)
from app.fields import Choice, Duration, FlagOrAuto, NameList, Windows
from app.routing.locality import is_cloud_model, model_key
from app.types import (
    BackendConfig,
    ChatRequest,
    Dialect,
    JsonObject,
    Loading,
    ModelFacts,
    Outgoing,
    Residency,
    StoredRequest,
    Target,
    Turnover,
    Wire,
)
from app.wire.ollama.request import dropped_members

log = logging.getLogger("llr.ollama")

_READS_TRUNCATE = (0, 12, 6)  # https://github.com/ollama/ollama/pull/12582
_HAS_LOGPROBS = (0, 12, 11)  # https://github.com/ollama/ollama/releases/tag/v0.12.11
_UNKNOWN: tuple[int, ...] = ()
_VERSION = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})")
_MOST_DIALECTS = 1000  # clients can name any model
_LOAD_S = 600.0  # a load goes on for this time when no request waits any more
_STAYS = "-1s"  # the `keep_alive` of a model that stays loaded; later requests without one do not change it
_UNLOADS = "0s"  # a request with this `keep_alive` unloads the model, when it has no prompt
_TOLD_S = 1.5  # an answer about loaded models is old after this time; a backend in use is asked each second
_MOST_DESCRIBED = 50  # models that the server is asked about in one round of discovery


class OllamaBackend(Backend):
    type = "ollama"
    hosted = False
    default_endpoint = "http://localhost:11434"
    paths = V1_PATHS | {Wire.OLLAMA: "/api/chat"}
    models_path = "/api/tags"
    hint = " (is Ollama running?)"
    dialect = Dialect(
        reasoning_field="reasoning",
        max_tokens_only=True,
        system_first=True,
        efforts={"minimal": "low", "xhigh": "high"},
    )

    logprob_members = {"logprobs": True}  # noqa: RUF012 - never changed

    policy_fields = {  # noqa: RUF012 - never changed
        "api": Choice(
            ("native", "openai"),
            metadata={
                "help": "`native`: /api/chat, which never cuts a prompt, for versions from 0.12.6 on and /v1 for older "
                "ones; `openai`: /v1",
                "default": "native",
            },
        ),
        "num_ctx": Windows(
            data_key="numCtx",
            metadata={"help": "the context window with which the server loads a model; not with `api: openai`"},
        ),
        "keep_alive": Duration(
            data_key="keepAlive",
            metadata={"help": "how long a model stays loaded after a request; -1: without end; not with `api: openai`"},
        ),
        "preload": NameList(
            metadata={
                "help": "the models that are loaded at the start and stay loaded, without end when `keepAlive` is not "
                "set; when not all of them fit, the first ones"
            }
        ),
        "think": FlagOrAuto(
            metadata={
                "help": "whether models reason: `true` and `false` overrule the client, `auto` follows its "
                "reasoning effort; not with `api: openai`",
                "default": "auto",
            }
        ),
    }

    def __init__(self, config: BackendConfig, environ: Mapping[str, str]) -> None:
        super().__init__(config, environ)
        self._hosts = ModelHosts(self._ask_for_host)
        sizes = config.own.get("num_ctx") or {}
        self._sizes = {name if name == "*" else model_key(name): size for name, size in sizes.items()}
        self._wants_native = config.own.get("api", "native") == "native"
        self._version: tuple[int, ...] | None = None  # None = the server has not answered yet
        self._without_native: tuple[int, ...] | None = None  # the version that turned out to have no /api/chat
        self._dialects: dict[str, Dialect] = {}
        self._dialects_by: Mapping[str, ModelFacts] = {}  # the facts that they were made from
        self._facts = OllamaFacts(self._wanted_window, lambda: self._is_native)
        self._changes = Event()
        self._loads = Loads(self._load)
        patient = dataclasses.replace(config.timeouts, first_byte_s=max(_LOAD_S, config.timeouts.first_byte_s))
        self._load_connections = ConnectionPool(config.endpoint, patient, self._authorities)

    @property
    def wires(self) -> tuple[Wire, ...]:
        """Return Ollama's own API instead of chat when the policy allows it and the server supports `truncate`."""
        *others, chat = super().wires
        return (*others, Wire.OLLAMA if self._is_native else chat)

    @property
    def _is_native(self) -> bool:
        version = self._version or _UNKNOWN
        return self._wants_native and version >= _READS_TRUNCATE and version != self._without_native

    @property
    def gives_logprobs(self) -> bool:
        return super().gives_logprobs and (self._version or _UNKNOWN) >= _HAS_LOGPROBS

    def get_ready(self) -> None:
        """Ask for the version before the first request.  A server that does not tell counts as an old one.  A server
        that may cut prompts is asked for the loaded models too when the answer is old, because it may have started
        again with a smaller window.  Raise BackendError when there is no server."""
        if self._version is None and self._wants_native:
            self._version = self._ask_version()
        if not self._is_native and 0 < self._facts.told_at < time.time() - _TOLD_S:
            with contextlib.suppress(BackendError):
                self.look()

    def dialect_for(self, model: str) -> Dialect:
        facts = self.facts
        if facts is not self._dialects_by or len(self._dialects) >= _MOST_DIALECTS:
            self._dialects, self._dialects_by = {}, facts
        dialect = self._dialects.get(model)
        if dialect is None:
            dialect = self._dialects[model] = dataclasses.replace(self.dialect, loading=self._loading(model))
        return dialect

    def prepare(self, request: ChatRequest | StoredRequest, target: Target, *, stream: bool) -> Outgoing:
        outgoing = super().prepare(request, target, stream=stream)
        if outgoing.wire is not Wire.OLLAMA or isinstance(request, StoredRequest):
            return outgoing
        return dataclasses.replace(
            outgoing,
            dropped=dropped_members(request.body.chat),
            other=partial(self._prepare_chat, request, target, stream=stream),
        )

    def _prepare_chat(self, request: ChatRequest, target: Target, *, stream: bool) -> Outgoing:
        """Remember that this server has no API of its own, and return the request for the OpenAI-compatible one."""
        if self._without_native != self._version:
            log.warning("%s has no /api/chat, and /v1 may cut a prompt without an error", target.backend)
            self._without_native = self._version
        return super().prepare(request, target, stream=stream)

    def open(self, outgoing: Outgoing, target: Target, *, stream: bool, private: bool) -> Whole | Stream:
        """Send a request; see Backend.open.  A server that claims a new version, but has no /api/chat (a proxy, or
        another program), gets it by the OpenAI-compatible API."""
        try:
            return super().open(outgoing, target, stream=stream, private=private)
        except (BackendDenied, BackendRejected) as refusal:
            if outgoing.other is None or not _lacks_path(refusal):
                raise
        other = dataclasses.replace(outgoing.other(), headers=outgoing.headers)
        return super().open(other, target, stream=stream, private=private)

    @classmethod
    def normal_endpoint(cls, endpoint: str) -> str:
        """People also write the `/v1` that their SDK settings have."""
        return endpoint.rstrip("/").removesuffix("/v1")

    @property
    def model_hosts(self) -> Mapping[str, str]:
        return self._hosts.by_model

    def host_of_model(self, model: str) -> str:
        return self._hosts.confirm(model)

    def discover(self) -> tuple[str, ...]:
        """Put the models first that the server runs itself: a request that names none gets the first."""
        document = self.ask(self.models_path)
        if self._wants_native and (version := self._ask_version()) is not None:
            self._version = version
        self.learn_list(document)
        hosts, names = self._hosts.by_model, self.model_names(document)
        return tuple(sorted(names, key=lambda name: is_cloud_model(name) or bool(hosts[model_key(name)])))

    def learn_list(self, document: JsonObject) -> None:
        self._hosts.learn({model_key(str(entry["name"])): host_said(entry) for entry in named(document)})
        self._facts.learn_list(document)

    def model_names(self, document: JsonObject) -> tuple[str, ...]:
        return tuple(str(entry["name"]) for entry in named(document))

    def ask_for_facts(self, models: Sequence[str] = ()) -> None:
        """Ask which models are loaded, and once for the description of each model."""
        self.look()
        descriptions: dict[str, JsonObject] = {}
        try:
            for name in list(islice(self._facts.to_describe(models), _MOST_DESCRIBED)):
                descriptions[name] = self._describe(name)
        finally:
            self._facts.learn_descriptions(descriptions)

    def _describe(self, model: str) -> JsonObject:
        """Return the description of a model; an empty one when the server has none, so that it is not asked again."""
        try:
            return self.ask("/api/show", {"model": model})
        except (BackendDenied, BackendRejected, BackendServerError):
            return {}

    @property
    def changes(self) -> Event:
        return self._changes

    @property
    def tells_loaded(self) -> bool:
        return self._facts.tells_loaded

    def look(self) -> None:
        document = None
        try:
            document = self.ask("/api/ps")
        finally:
            self._facts.learn_loaded(document)

    def must_load(self, model: str) -> bool:
        """Return True for a model that is not loaded, unless the policy lets models go after each request.  A server
        that may cut prompts is also asked to load a model that another client has loaded, because the window that our
        call gets must be known before it."""
        facts = self._facts.by_model.get(model_key(model))
        if facts is None or facts.loaded is None:
            return False
        if facts.loaded:
            return not facts.refuses and self._facts.may_change_window(model)
        return self._keep_alive(model) != _UNLOADS

    def load(self, model: str, limit_s: float | None = None) -> None:
        self._loads.wait_for(model, self.config.timeouts.first_byte_s if limit_s is None else limit_s)

    @property
    def preload(self) -> tuple[str, ...]:
        return tuple(self.config.own.get("preload") or ())

    def unused_s(self, model: str) -> float:
        return self._facts.unused_s(model)

    def _load(self, model: str) -> None:
        """Load a model with the options of a chat, which would load it again otherwise.  A request that the server
        refuses is no failure: the call gets the same refusal, in the words of its API."""
        loading, question = self._loading(model), {"model": model, "stream": False}
        if self._is_native and loading.num_ctx is not None:
            question["options"] = {"num_ctx": loading.num_ctx}
        keep_alive = self._keep_alive(model)
        if keep_alive is None and model_key(model) in map(model_key, self.preload):
            keep_alive = _STAYS
        if keep_alive is not None:
            question["keep_alive"] = keep_alive
        self._facts.begin_load(model)
        self._changes.set()
        try:
            self.ask("/api/generate", question, via=self._load_connections)
        except (BackendDenied, BackendRejected) as refusal:
            if not _lacks_path(refusal):
                return
        finally:
            self._facts.end_load(model)
            self._changes.set()
        with contextlib.suppress(BackendError):
            self.look()
            self._facts.accept_window(model)
            self._facts.doubt_loaded()

    def _keep_alive(self, model: str) -> str | None:
        return self._loading(model).keep_alive if self._is_native else None

    def close(self) -> None:
        super().close()
        self._load_connections.close()

    @property
    def version(self) -> str:
        return ".".join(map(str, self._version or _UNKNOWN))

    @property
    def facts(self) -> Mapping[str, ModelFacts]:
        return self._facts.by_model

    @property
    def residency(self) -> Mapping[str, Residency]:
        return self._facts.residency

    @property
    def residency_at(self) -> float:
        return self._facts.told_at

    @property
    def turnover(self) -> Mapping[str, Turnover]:
        return self._facts.turnover

    def _ask_version(self) -> tuple[int, ...] | None:
        """Return the version; None when the server had an error, and should be asked again.  Raise BackendError when
        there is no server."""
        try:
            match = _VERSION.match(str(self.ask("/api/version").get("version")))
        except (BackendDenied, BackendRejected):
            return _UNKNOWN
        except (BackendServerError, BackendRateLimited, BackendProtocol):
            return None
        return tuple(map(int, match.groups())) if match else _UNKNOWN

    def _loading(self, model: str) -> Loading:
        """Return the policy's options for a model."""
        own = self.config.own
        think = own.get("think")
        return Loading(
            num_ctx=self._sizes.get(model_key(model)) or self._sizes.get("*"),
            keep_alive=own.get("keep_alive"),
            think=think if isinstance(think, bool) else None,
            thinks=self._thinks(model),
        )

    def _thinks(self, model: str) -> bool:
        """Return False for a model that is known to have no reasoning; older versions do not tell."""
        facts = self.facts.get(model_key(model))
        return facts is None or not facts.capabilities or "thinking" in facts.capabilities

    def _wanted_window(self, model: str) -> int | None:
        """Return the window that requests for a model ask for.  Other APIs than Ollama's own ask for none."""
        return self._loading(model).num_ctx if self._is_native else None

    def _ask_for_host(self, model: str) -> str:
        """Ask where a model runs.  A version that answers 404, or names no host, runs all models itself."""
        try:
            return host_said(self.ask("/api/show", {"model": model}, private=True))
        except BackendDenied as error:
            if error.kind != "http_404":
                raise
        if self._has_aliases():
            raise PrivacyViolation("it does not hold this model, and an alias may lead to another host")
        return ""

    def _has_aliases(self) -> bool:
        """Return True when an unknown name may be an alias of another model.  Versions with aliases (such as 0.17)
        use them in the chat API, but not in /api/show.
        """
        try:
            return bool(entries_of(self.ask("/api/experimental/aliases", private=True), "aliases"))
        except (BackendDenied, BackendRejected):  # this version has no aliases
            return False


def _lacks_path(refusal: BackendError) -> bool:
    """Return True when a server has no such path.  When it lacks the model, its message names the model."""
    return refusal.kind in ("http_404", "http_405") and "model" not in (refusal.backend_text or "").lower()
