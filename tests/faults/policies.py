"""Policies a step away from a good one, in YAML: odd ones, of which some can be served."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import yaml

RICH: dict[str, Any] = {
    "backends": {
        "parrot": {"type": "echo", "models": ["echo:1b", "org/echo"], "p50Ms": 20, "price": {"input": 0, "output": 0}},
        "local": {
            "type": "ollama",
            "endpoint": "http://127.0.0.1:9/v1/",
            "models": ["llama3.1:8b"],
            "families": {"qwen-coder": "qwen2.5-coder:7b"},
            "contextWindow": {"llama3.1:8b": 8192, "*": 4096},
            "timeouts": {"connectMs": 500, "firstByteMs": 5000, "idleMs": 5000},
            "maxConcurrency": 2,
            "local": True,
        },
        "cloud": {
            "type": "openai",
            "endpoint": "https://127.0.0.1:9/v1",
            "model": "gpt",
            "apiKeyEnv": "",
            "price": {"input": 2.5, "output": 10},
        },
    },
    "routes": [
        {"match": {"sensitivity": "high"}, "backend": "parrot", "reason": "stays here"},
        {
            "match": {"task": ["vision", "web_search"], "difficulty": {"min": 0.9}},
            "backend": "cloud",
            "fallback": "parrot",
        },
        {"default": "parrot", "fallback": ["local"], "latencyBudgetMs": 4000},
    ],
    "aliases": {"fast": "parrot", "gpt-4o": "auto"},
    "complexity": {"medium": 0.3, "high": 0.7},
    "sensitivity": {"detect": ["api_key", "iban", "email"], "patterns": ["(?i)project bluebird", "^secret$"]},
    "ab": {"enabled": True, "sampleRate": 0.5, "candidates": {"parrot": "local"}},
    "responses": {"store": True, "ttlHours": 2, "maxRows": 50},
    "savings": {"against": "cloud"},
}
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2.5, 1e-9, 1e12, 10**12, 10**30, 10**400, float("nan"), float("inf"), "", " ", "0",
    "no", "parrot", "local", "auto", "ä", "é" * 70, "\u2028", "\x1b[31m", "a\nb", "\U0001f99c", "x" * 5000,
    "k" * 70_000, "%s{}$(id)", "../../etc/passwd", "http://[::1]:9", "http://a..b", "http://x:99999", "https://127.0.0.1",
    [], {}, [[]], ["parrot", "parrot"], {"a": {"b": 1}}, "sk-proj-Abc123Def456Ghi789Jkl012Mno345",
)  # fmt: skip
PATTERNS = (
    "(?i)patient: [\\pL .-]{1,80}", "(?i)kunde:? [\\pL ]{3,60}", "(?i)[\\pL ]{3,300}x", "a{1,1000}b", "(a+)+b",
    "(x|x)*y", "\\x{10ffff}", "\\Qa*\\E", "(?s)y.{0,500}z", "(?-u)x", "\\bä\\b", "[[:^ascii:]]{4,9}", "a|b|c",
    "(?P<n>ab)", "$^", "a**", "(", "\\1", "(?=a)", "\\C\\C", "é{2}", "(?i)ſ", "x{0}", "[^\\n]{1,999}",
    "((((((a{1,9}){1,9}){1,9}))))z",
)  # fmt: skip
LETTERS = "ab:{}[],'\"#&*!|>%@` \t\n-?\\\u2028é\U0001f99c\x07"


def mutated(rng: random.Random) -> str:
    """The text of a policy with one to three changes."""
    policy = copy.deepcopy(RICH)
    for _ in range(rng.randint(1, 3)):
        rng.choice((_value, _key, _removed, _patterns, _patterns, _patterns, _numbers, _many, _names))(policy, rng)
    text = yaml.safe_dump(policy, allow_unicode=rng.random() < 0.5, sort_keys=False, width=10_000)
    return _letters(text, rng) if rng.random() < 0.25 else rng.choice(_DRESSED)(text)


_DRESSED: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    lambda text: text,
    lambda text: "\ufeff" + text,
    lambda text: text.replace("\n", "\r\n"),
    lambda text: "%YAML 1.1\n---\n" + text + "...\n",
    lambda text: text + "# " + "c" * 150_000 + "\n",
    lambda text: text.replace("type: echo", "type: &t echo", 1),
)


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if at:
        yield at
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in pairs:
        yield from _places(inner, (*at, name))


def _holder(policy: Any, rng: random.Random) -> tuple[Any, Any]:
    """A mapping or list of the policy, and one of its keys."""
    *path, last = rng.choice(list(_places(policy)))
    for name in path:
        policy = policy[name]
    return policy, last


def _value(policy: dict[str, Any], rng: random.Random) -> None:
    holder, key = _holder(policy, rng)
    holder[key] = rng.choice(ODD)


def _key(policy: dict[str, Any], rng: random.Random) -> None:
    holder, key = _holder(policy, rng)
    if isinstance(holder, dict):
        new = rng.choice([odd for odd in ODD if isinstance(odd, (str, int, float, type(None)))])
        holder[new] = holder.pop(key)


def _removed(policy: dict[str, Any], rng: random.Random) -> None:
    holder, key = _holder(policy, rng)
    del holder[key]


def _patterns(policy: dict[str, Any], rng: random.Random) -> None:
    chosen = rng.choices(PATTERNS[: rng.choice((6, 6, 18, 25))], k=rng.choice((1, 2, 4, 8, 20)))
    policy["sensitivity"] = {"detect": ["email"], "patterns": chosen}


def _numbers(policy: dict[str, Any], rng: random.Random) -> None:
    backends = policy.get("backends")
    parrot = backends.get("parrot") if isinstance(backends, dict) else None
    if isinstance(parrot, dict):
        large = rng.choice((1, 1e-6, 1e6, 86_400_000, 1e12, 999_999_999_999))
        parrot |= {"p50Ms": large, "timeouts": {"connectMs": large, "firstByteMs": large, "idleMs": large}}
        parrot["maxConcurrency"] = int(large)


def _many(policy: dict[str, Any], rng: random.Random) -> None:
    if isinstance(policy.get("backends"), dict):
        count = rng.choice((10, 100, 1000))
        policy["backends"] |= {f"b{number}": {"type": "echo"} for number in range(count)}


def _names(policy: dict[str, Any], rng: random.Random) -> None:
    backends = policy.get("backends")
    parrot = backends.get("parrot") if isinstance(backends, dict) else None
    if isinstance(parrot, dict):
        parrot["models"] = [odd for odd in rng.choices(ODD, k=2) if isinstance(odd, str) and odd.strip()] or ["m"]


def _letters(text: str, rng: random.Random) -> str:
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice((rng.choice(LETTERS), "")) + text[at + rng.randint(0, 2) :]
    return text
