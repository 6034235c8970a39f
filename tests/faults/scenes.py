"""The policies of the privacy matrix, and the model servers behind them: two at home, the others in the cloud."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.fakes import replies
from tests.fakes.replies import CLOSE, HANG, RESET, Play, completion, cut, error, error_document, reply, sse
from tests.fakes.upstream import Received, Upstream, refused_url
from tests.wire.messages.test_backend import MESSAGE
from tests.wire.messages.test_grammar import GOOD, written

POLICY = dict[str, Any]
HASTY = {"connectMs": 2000, "firstByteMs": 400, "idleMs": 400}
SENSITIVITY = {
    "detect": ["api_key", "private_key", "jwt", "credit_card", "iban", "us_ssn", "email", "phone"],
    "patterns": ["(?i)project bluebird"],
}
SAID = completion("fine", "m:1")


@dataclass
class Fakes:
    """`home` plays the faults, `den` is a second local one; the rest is outside and hears every byte."""

    home: Upstream
    den: Upstream
    clouds: Mapping[str, Upstream]  # cloud, cloud2, mirror, public (at an address that counts as public)
    refused: str  # a URL where nothing listens


FAULTS: dict[str, Callable[[Fakes], Play]] = {
    "none": lambda _: [],
    "http_500": lambda _: error(500),
    "http_503_html": lambda _: replies.html(503),
    "http_429": lambda _: replies.rate_limited(),
    "http_401": lambda _: error(401),
    "http_404": lambda _: error(404),
    "http_400_quoting": lambda _: _quote,
    "redirect_307": lambda fakes: replies.redirect(fakes.clouds["cloud"].url + "/v1/chat/completions", 307),
    "redirect_301": lambda fakes: replies.redirect(fakes.clouds["cloud2"].url, 301),
    "reset": lambda _: [RESET],
    "close": lambda _: [CLOSE],
    "hang": lambda _: [HANG],
    "html": lambda _: replies.html(),
    "bad_json": lambda _: reply(200, b'{"choices": [}'),
    "truncated": lambda _: cut(reply(200, SAID), -10),
    "error_event": lambda _: sse(error_document("no memory"), finish=False),
    "stream_cut": lambda _: sse("half an", CLOSE, finish=False),
}


def _quote(request: Received) -> list[replies.Step]:
    """Backends quote the prompt when they do not like it."""
    return error(400, f"I do not like {request.body.decode('utf-8', 'replace')}", code=request.body.decode()[:60])


def _native(request: Received) -> list[replies.Step]:
    """A server that speaks the Responses API itself."""
    document = {"id": f"resp_native{request.number}", "object": "response", "status": "completed", "output": []}
    if not request.json.get("stream"):
        return reply(200, document)
    return sse({"type": "response.completed", "sequence_number": 0, "response": document}, finish=False)


def _message(request: Received) -> list[replies.Step]:
    """A server that speaks the Messages API itself."""
    return sse(written(GOOD), finish=False) if request.json.get("stream") else reply(200, MESSAGE)


@contextmanager
def running() -> Iterator[Fakes]:
    with ExitStack() as stack:
        hosts = {"cloud": "127.0.0.1", "cloud2": "127.0.0.1", "mirror": "127.0.0.1", "public": "127.0.0.2"}
        clouds = {
            name: stack.enter_context(
                Upstream(host=host, models=["c-1", "shared"], recording=False, eavesdropping=True)
            )
            for name, host in hosts.items()
        }
        home = stack.enter_context(Upstream(models=["m:1", "gpt-oss:120b-cloud"], text="fine"))
        den = stack.enter_context(Upstream(models=["d:1"], text="fine"))
        fakes = Fakes(home, den, clouds, stack.enter_context(refused_url()))
        for up in (home, *clouds.values()):
            up.script(_native, path="/responses", when=lambda request: not _fault(request), repeat=True)
            up.script(_message, path="/messages", when=lambda request: not _fault(request), repeat=True)
        for name, play in FAULTS.items():
            if name != "none":
                home.script(play(fakes), when=lambda request, name=name: _fault(request) == name, path="*", repeat=True)
        yield fakes


def _fault(request: Received) -> str:
    found = re.search(rb"fault-(\w+)", request.body)
    name = found.group(1).decode() if found else ""
    return "" if name == "none" else name


@dataclass(frozen=True)
class Scene:
    """`local`: the backends that may answer a private request."""

    name: str
    policies: Callable[[Fakes], list[POLICY]]  # more than one: SIGHUP changes between them
    local: frozenset[str] = frozenset({"home", "den"})
    stored: bool = False  # private conversations are kept
    small_loopback: bool = False
    hears: frozenset[str] = field(default=frozenset({"cloud", "mirror"}))  # what the control requests must reach


def _policy(fakes: Fakes, routes: list[POLICY], **changes: Any) -> POLICY:
    ollama = {"type": "ollama", "timeouts": HASTY}
    hosted = {"type": "openai", "timeouts": HASTY, "apiKeyEnv": "CLOUD_KEY"}
    clouds = {
        name: {**hosted, "endpoint": f"{up.url}/v1", "models": ["c-1", "shared"]} for name, up in fakes.clouds.items()
    }
    families = {"qwen-coder": "gpt-oss:120b-cloud"}
    backends = {
        "home": {**ollama, "endpoint": fakes.home.url, "models": ["m:1", "shared"], "families": families},
        "den": {**ollama, "endpoint": fakes.den.url, "models": ["d:1"]},
        **clouds,
    }
    for name, keys in changes.pop("backends", {}).items():
        backends[name] = {**backends.get(name, {}), **keys}
    ab = {"enabled": True, "sampleRate": 1.0, "candidates": {"home": "mirror", "den": "mirror"}}
    return {"backends": backends, "routes": routes, "ab": ab, "sensitivity": SENSITIVITY, **changes}


def _routes(primary: str, *fallbacks: str, **more: Any) -> list[POLICY]:
    return [{"default": primary, **({"fallback": list(fallbacks)} if fallbacks else {}), **more}]


def _one(*route: str, **changes: Any) -> Callable[[Fakes], list[POLICY]]:
    return lambda fakes: [_policy(fakes, _routes(*route), **changes)]


def _budget(fakes: Fakes) -> list[POLICY]:
    """The primary at home is passed over for its latency; it is measured by mirrored requests."""
    slow = {"home": {"p50Ms": 60000}, "cloud": {"p50Ms": 1}, "den": {"p50Ms": 70000}}
    return [_policy(fakes, _routes("home", "cloud", "den", latencyBudgetMs=100), backends=slow)]


def _refused(fakes: Fakes) -> list[POLICY]:
    return [_policy(fakes, _routes("home", "cloud"), backends={"home": {"endpoint": fakes.refused}})]


def _names(fakes: Fakes) -> list[POLICY]:
    """Names: one leads home, one also elsewhere, one elsewhere when it is called, one nowhere."""
    ports = {"home": fakes.home.port, "both": fakes.clouds["public"].port, "flips": fakes.clouds["public"].port}
    named = {
        name: {
            "type": "ollama",
            "endpoint": f"http://{name}.example:{port}",
            "models": ["m:1", "c-1"],
            "timeouts": HASTY,
        }
        for name, port in {**ports, "nowhere": 9}.items()
    }
    literal = {"type": "ollama", "endpoint": fakes.clouds["public"].url, "models": ["m:1"], "timeouts": HASTY}
    loopback = {**named["flips"], "endpoint": f"http://flips.localhost:{ports['flips']}"}
    backends = {**named, "literal": literal, "loopback": loopback}
    names = ("flips", "loopback", "both", "literal", "nowhere", "cloud", "home")
    return [_policy(fakes, _routes(*names), backends=backends)]


def _swapped(fakes: Fakes) -> list[POLICY]:
    """The same names mean something else after each reload."""
    keys = ("type", "endpoint", "apiKeyEnv", "models", "families")
    first = _policy(fakes, _routes("home", "cloud"))
    second = json.loads(json.dumps(first))
    for one, other in (("home", "cloud"), ("den", "cloud2")):
        backends = second["backends"]
        mine = {key: backends[one].pop(key, None) for key in keys}
        others = {key: backends[other].pop(key, None) for key in keys}
        backends[one].update({key: value for key, value in others.items() if value is not None})
        backends[other].update({key: value for key, value in mine.items() if value is not None})
    return [first, second]


def _native_policy(fakes: Fakes) -> list[POLICY]:
    native = {"responses": "native"}
    return [_policy(fakes, _routes("home", "cloud"), backends=dict.fromkeys(("home", "cloud", "mirror"), native))]


def _messages_policy(fakes: Fakes) -> list[POLICY]:
    """Anthropic is the cloud, and the local server speaks its API too."""
    claude = {"type": "anthropic"}
    changes = {"home": {"messages": "native"}, "cloud": claude, "mirror": claude}
    return [_policy(fakes, _routes("home", "cloud"), backends=changes)]


def _pool(fakes: Fakes) -> list[POLICY]:
    """Conversations of their own lead to members elsewhere, and places at home are taken most of the time."""
    pools = {"all": {"members": ["cloud", "home", "cloud2", "den"], "weights": {"cloud": 3, "cloud2": 3}}}
    few = {"home": {"maxConcurrency": 2}, "den": {"maxConcurrency": 1}}
    return [_policy(fakes, _routes("all", "cloud"), pools=pools, backends=few)]


def _judged(fakes: Fakes) -> list[POLICY]:
    """Every answer that may be escalated is: no answer is without doubt."""
    verify = {"second": "den", "doubt": 0, "dailyShare": 1}
    return [_policy(fakes, _routes("home", "cloud", verify=verify))]


def _judged_pool(fakes: Fakes) -> list[POLICY]:
    """A pool with members elsewhere is asked first and escalates to a backend that is no fallback; with a reload to
    rules without a second opinion."""
    pools = {"all": {"members": ["home", "cloud2", "den"]}}
    rules = ({"escalate": "cloud", "samples": 2, "doubt": 0, "dailyShare": 1}, {"escalate": "cloud", "by": "structure"})
    return [_policy(fakes, _routes("all", verify=verify), pools=pools) for verify in rules]


_CLOUD_TAGS = {"home": {"models": ["gpt-oss:120b-cloud", "kimi:cloud"], "families": {"llama": "glm-4.6:cloud"}}}

SCENES = (
    Scene("one fallback", _one("home", "cloud")),
    Scene("a list of fallbacks", _one("home", "den", "cloud", "cloud2")),
    Scene("cloud first", _one("cloud", "home", "cloud2")),
    Scene("budget shift", _budget, hears=frozenset({"cloud"})),
    Scene("nothing local in the route", _one("cloud", "cloud2"), hears=frozenset({"cloud"})),
    Scene("home refuses", _refused, hears=frozenset({"cloud"})),
    Scene("cloud tags", _one("home", "cloud", "den", backends=_CLOUD_TAGS), hears=frozenset({"cloud"})),
    Scene(
        "names",
        _names,
        local=frozenset({"home", "den", "flips", "loopback"}),
        small_loopback=True,
        hears=frozenset({"cloud", "public"}),
    ),
    Scene("kept conversations", _one("home", "cloud", responses={"storePrivate": True}), stored=True),
    Scene("native", _native_policy),
    Scene("messages", _messages_policy),
    Scene("a pool", _pool, hears=frozenset({"cloud"})),
    Scene("judged answers", _judged),
    Scene("judged answers of a pool", _judged_pool, hears=frozenset({"cloud"})),
    Scene(
        "a reload that swaps names", _swapped, local=frozenset({"home", "den", "cloud", "cloud2"}), hears=frozenset()
    ),
)
