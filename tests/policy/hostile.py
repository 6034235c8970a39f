"""Texts that are no policy anybody means: each must end in some clear lines, and soon."""

from __future__ import annotations

BASE = """\
backends:
  local: {{type: ollama}}
{backends}
routes:
{routes}
  - default: local
{more}
"""
HUGE = "k" * 72_000
KEYLIKE = "eyJaaaaaaaa-" * 6_000


def policy(backends: str = "", routes: str = "", more: str = "") -> str:
    return BASE.format(backends=backends, routes=routes, more=more)


def patterns(*texts: str) -> str:
    return policy(more="sensitivity: {patterns: [" + ", ".join(f"'{text}'" for text in texts) + "]}")


def route(backend: str) -> str:
    return f"  - {{match: {{task: code}}, backend: {backend}}}\n"


WRONG = {
    "a huge name of a backend": policy(f"  ? {HUGE}\n  : {{type: ollama}}"),
    "a huge key that looks like a token": policy(f"  ? {KEYLIKE}\n  : {{type: ollama}}"),
    "a huge key of a backend": policy(f'  other: {{type: ollama, ? "{KEYLIKE}" : 1}}'),
    "a huge key at the top": f"? {HUGE}\n: 1\n" + policy(),
    "a huge name in a route": policy(routes=route(HUGE)),
    "a huge value": policy(f"  other: {{type: {HUGE}}}"),
    "a huge tag": policy(f"  other: !{HUGE} x"),
    "a huge alias": policy(f"  other: *{HUGE}"),
    "a huge model": policy(f"  other: {{type: ollama, model: {HUGE}}}"),
    "a huge endpoint": policy(f"  other: {{type: ollama, endpoint: 'http://{'a.' * 30_000}'}}"),
    "keys below a huge key": f"? {HUGE}\n: {{{', '.join(['a: 1'] * 9000)}}}\n",
    "thousands of unknown names alike": policy(
        "".join(f"  b{n:03d}{'a' * 30}: {{type: echo}}\n" for n in range(100)),
        "".join(route(f"b{n:05d}{'a' * 25}") for n in range(2500)),
    ),
    "thousands of unknown keys": policy(more="".join(f"routs{n}: 1\n" for n in range(9000))),
    "thousands of wrong words": policy(more=f"sensitivity: {{detect: [{', '.join(['emial'] * 15_000)}]}}"),
    "a number of 5000 digits": policy(f"  other: {{type: ollama, p50Ms: {'9' * 5000}}}"),
    "a number of 400 digits": policy(f"  other: {{type: ollama, p50Ms: {'9' * 400}}}"),
    "a hexadecimal number without end": policy(f"  other: {{type: ollama, p50Ms: 0x{'f' * 72_000}}}"),
    "a number in base 60 without end": policy(f"  other: {{type: ollama, p50Ms: 1{':1' * 40_000}}}"),
    "a number too large": policy("  other: {type: ollama, timeouts: {connectMs: 1.0e+300}}"),
    "a deadline no socket takes": policy("  other: {type: ollama, timeouts: {idleMs: 99999999999999999999}}"),
    "half a character": policy('  other: {type: ollama, model: "a\\ud800b"}'),
    "half a character in a key": policy('  "a\\udfff": {type: ollama}'),
    "a label of a host too long": policy(f"  other: {{type: ollama, endpoint: 'http://{'a' * 64}.example'}}"),
    "an empty label of a host": policy("  other: {type: ollama, endpoint: 'http://a..example'}"),
    "brackets without end": policy(more="ab: " + "[" * 90_000),
    "patterns that are too much together": patterns(*(f"(?i)k{n}:? [\\pL ]{{3,60}}" for n in range(400))),
    "thousands of heavy patterns": patterns(*(f"(?i)[\\pL ]{{3,300}}{n}" for n in range(4000))),
    "thousands of patterns that are none": patterns(*(f"({n}" for n in range(9000))),
    "a pattern too large by itself": patterns("(?i)(?:[\\pL ]{1,1000}){1,1000}"),
}
GOOD = {
    "patterns that are much together": patterns(
        "(?i)patient: [\\pL .-]{1,80}",
        "(?i)kunde:? [\\pL ]{3,60}",
        "(?i)mandant: [\\pL .-]{1,80}",
        "(?i)[\\pL ]{3,60}x",
    ),
    "many patterns": patterns(*(f"customer {n}" for n in range(5000))),
    "odd patterns": patterns("^a$", "\\x{10ffff}", "\\bä\\b", "(?s)y.x", "[^a]bc", "a|b", "\\Qa*\\E", "(?P<n>a)"),
    "large numbers": policy("  other: {type: ollama, p50Ms: 1.0e+12, maxConcurrency: 1000000000000}"),
    "odd letters": policy('  other: {type: ollama, models: ["ä\\u2028\\0\\x1b", "\\U0010ffff", "​"]}'),
}
