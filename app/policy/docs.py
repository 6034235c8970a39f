"""Write docs/policy.md from the schema: `flask policy docs > docs/policy.md`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from marshmallow import Schema, fields

from app.backends import BACKEND_TYPES
from app.fields import (
    Choice,
    Choices,
    Condition,
    Duration,
    Endpoint,
    EnvName,
    Flag,
    FlagCondition,
    FlagOrAuto,
    Limits,
    NameList,
    Names,
    Number,
    Text,
    Weights,
    Windows,
)
from app.policy.detector_fields import DetectorNames, Patterns
from app.policy.schema import BackendSchema, MatchSchema, PolicySchema, PoolSchema, RouteSchema, VerifySchema
from app.routing.detect import DETECTORS, RECOMMENDED
from app.routing.private import national_ids

Fields = Mapping[str, object]

_INTRO = """\
# Policy reference

`flask policy docs` generates this page from the schema; do not edit it. The commented
[policy.example.yaml](../policy.example.yaml) uses every key.

A policy is one YAML file (`LLR_POLICY`, default `./policy.yaml`). `flask policy check FILE` checks it and reports all
problems together, each with its line, its path and the nearest legal value. Unknown keys are errors. After a change,
send SIGHUP to the router. When the new file is wrong, the log names its problems and the router keeps the old policy.

In the column *default*, `-` means that the key has no default and may be absent.
"""
_TYPES = """\
The table lists the types. The column *local* says whether a backend of this type counts as local. Private requests go
to local backends only. "if private" means: the backend is local when its address is a loopback or private address, or
when its host name (`localhost` too) resolves to such addresses only. The key `local` overrides this in both
directions.

An Ollama server can forward a model to another host. Such a model is never local, whatever `local` says. The router
knows it from the server's answer (`remote_host`) or from a tag that ends in `cloud`. Before each private request it
asks the server, unless an answer is less than a second old. When the server does not answer, the router does not send
the request there.
"""
_BACKENDS = """\
The router chooses the model of a call in this order: `families[tag]`, when the request's tag `family` is listed there;
`model`; the first of `models`; the first of `families`; a model that the backend reported.

`p50Ms` and `latencyBudgetMs` mean the time to the first byte for streams, and the whole time for other calls. `p50Ms`
is used until five calls succeeded within the last hour. Then the median of the latest nine calls is used. Both mean a
model that is loaded and a place that is free: `latencyBudgetMs` is compared with the sum of this time, the expected
load of a model that is not loaded, and the expected wait for a place.
"""
_POOLS = """\
`pools: {gpu: {members: [box1, box2], weights: {box1: 3}}}` puts backends that do the same work under one name. The
name stands wherever the name of a backend does: in `backend`, `default`, `fallback` and `aliases`, and as the `model`
of a request (`gpu`, or `gpu/llama3.2:3b`). It differs from the names of all backends, pools and aliases. Members are
backends, not pools. As a primary of the A/B trial, a pool stands for each of its members. A candidate of the trial,
and the backend of `savings`, must be one backend.

The router chooses a member for each request, in this order:

1. The own member of the conversation, while it is healthy. A hash leads to it, of all messages before the first reply
   and of the session identifier that the client sends. All workers compute the same member, also after a restart. When
   a member is removed from the pool, only its own conversations move.
2. A member with a free place (`maxConcurrency`). A member without this limit always has one.
3. A member that has the model in memory; then the one with the fewest calls in flight.
4. The member with the shortest expected wait.

The first request of a conversation never waits while a member has a free place. A later one waits for its own member,
for `maxWaitMs` at most, and no longer than another member is expected to need for the whole conversation: for a load
when the model is not in memory, and for its median latency or 1 ms for each token, whichever is more.

`weights` divide the conversations: with `{box1: 3}`, box1 gets three times as many as a member without a weight. The
shares hold over many conversations. A member whose places are all taken is passed over, and the trace says so. Without
weights, a new conversation goes to the member with the fewest calls in flight, when the members have no limit.

When a call to a member fails, the next member gets the request; this counts as a fallback. For a private request, the
members that are not local are dropped. A route for `sensitivity: high` alone may name a pool with a local member. The
header `X-LLR-Backend` and the rows of the metrics name the member; `X-LLR-Pool` and the column `pool` name the pool.
"""
_ROUTES = """\
The router tests the routes from top to bottom; the first match wins. The last route has `default: NAME` instead of
`match` and `backend`. A route that matches `sensitivity: high` alone may name local backends, and pools with a local
member. A private request skips every route that has no local target.
"""
_MATCH = """\
All conditions must hold. A condition is a word, or a list of words, of which any may match. For the numbers `tokens`,
`difficulty` and `confidence` it is `{min, max}`; both limits are included, and one of them may be absent.
`flask route explain "some prompt"` prints the tags of a prompt and the evidence for them.
[classifier.md](classifier.md) describes how the router computes the tags.
"""
_VERIFY = """\
`verify` of a route asks its backend first, judges the answer, and asks a stronger backend when the answer does not
hold. The client gets one answer: that of the first backend, or that of `escalate`. [verify.md](verify.md) describes how
an answer is judged.

- `by: [structure]` judges the form: JSON that was asked for, arguments of tools, empty and cut answers, refusals,
  loops. `confidence` reads the probabilities of the tokens, from servers that give them. `agreement` compares the
  answer with a second opinion, which is local and costs nothing: of the backend `second`, or with `samples: 2` of the
  same model. Only answers that can be compared get one.
- `escalate` names the stronger backend or pool; without it, the first of `fallback` is asked. When it is not among the
  fallbacks, it is also the last of them, so it gets the request when all others fail.
- A stream is held for `maxHoldMs` and `maxHoldTokens` at most, and then sent as it is. Calls of tools and answers in a
  `response_format` are always held as a whole.
- `dailyShare` limits the escalations of the last 24 hours, over all workers, from the 20th request on. Machines that
  share a database learn of each other's escalations a second later.

A private request is never escalated and gets no second opinion: its answer is sent as it comes, and its form is
judged for the record only. A request with `purpose: background`, a request that names a backend or model, and one that
continues a response of a backend are not judged.
"""
_NAMES = """\
## Names

The `model` of a request is one of: `auto`, a name of `aliases`, a backend or pool, `backend/model`, `pool/model`, a
model that a backend declares, or a model that a backend reported. A member of a pool that is known to lack the model
gets no such request. An exact match is tried first, then a match without regard to case. For
Ollama, `x` and `x:latest` are the same name.

`aliases: {gpt-4o: auto, fast: "local/llama3.2:3b"}` gives a meaning to a name. Aliases help with names that are built
into a client, and they make long names short. An alias always works, takes precedence over a model of the same name,
and is listed by `GET /v1/models`. An alias stands for `auto`, a backend or pool, `backend/model`, `pool/model` or a
declared model, never for another alias.

| `pins` | names that a request may send, beside `auto` and aliases |
| --- | --- |
| `any` | every backend, pool and model |
| `declared` | backends, pools, and models that the policy declares; no models that a backend only reported |
| `local` | backends and models that are local, and pools with their local members |
| `none` | none |

A name that `pins` does not allow counts as unknown. With `unknownModel: auto`, the router routes an unknown name as
`auto`; clients with a built-in name need this. With `unknownModel: refuse`, an unknown name is a 404 `model_not_found`.

A misspelling of a known name is always a 404 that tells the nearest name. A misspelling differs in one character
(added, removed, replaced, or swapped with its neighbour), or in two for names of 10 or more characters; its digits and
its tag are the same. Names of well-known hosted models, such as `gpt-4`, never count as misspellings.

When a private request names a backend or model that is not local, the router ignores the name and routes the request as
private. The response has the header `X-LLR-Pin: refused`.
"""
_TEXTS = {
    "conversations": """\
The tags of a conversation come from all turns of the user. A turn changes the task only when it clearly asks for
another one. A turn of a few words continues what stands, with its difficulty. One turn of another task, up to 200
characters, is an aside: the turn after it goes back, unless it continues the aside, or the user said that another
subject follows for good. Difficulty may rise at any turn; it falls with a new task, or by one step after three requests
that are clearly easier. The first line of the trace names the turn that the task comes from.
""",
    "complexity": """\
`difficulty` is a number from 0 to 1: the probability that a small local model is not good enough. The tag `complexity`
divides it into three levels: `low` below `medium`, `high` from `high` upwards, `medium` between them. A request of more
than 8,000 tokens is never `low`.
""",
    "ab": """\
After the primary backend succeeded, the router sends a sample of the requests to its candidate too. These shadow calls
are buffered and run in the background, at most four at a time in each worker. The client never gets their replies. A
private request is never sent to a candidate that is not local. `GET /v1/ab` and `flask ab report` compare the two
backends on the same requests. Both answers are judged by the function that judges those of routes with `verify`; only
numbers are stored. A candidate with no worse answers that is faster or cheaper is promoted.
""",
    "sensitivity": """\
A request is private when its header `X-LLR-Sensitivity` is `high`, or when a detector or pattern matches in any text of
the request. A detector can only make a request private; it never makes a private request public.

Each detector reads the text as it is, and once more with non-breaking spaces, dashes, fullwidth digits and invisible
characters in their plain form. It also reads JSON inside a string (such as the arguments of a tool call), URL-encoded
text (`%40`), HTML entities (`&#64;`) and text files that are sent as a data URL. It does not read images, audio and
other files.

Some text never counts: examples and placeholders (`sk-xxxx…`, `AKIA…EXAMPLE`, `password: changeme`, `${TOKEN}`, names
of variables and expressions), a part of a longer run of hexadecimal or base64, and a line of a hex dump. So bulk
text, such as git logs, lock files, UUIDs and access logs, does not make a request private.

The reason has a short name: `header`, `detector:api_key`, `pattern:patterns[0]` (the first pattern of the policy) or
`conversation` (the request continues a private conversation). The trace, the header `X-LLR-Sensitivity-Reason`,
`/v1/route` and the metrics column `sensitivity_reason` show this name. They never show any of the text.

No detector finds these: names of persons, postal addresses, dates of birth, passport and driving licence numbers,
health or salary data, account numbers that are not IBANs, cryptocurrency wallets and their seed phrases, secrets
without a mark (a random word without a known prefix, and without a name or sentence that calls it a secret),
passwords of letters only, three or more card numbers in one row with single spaces between all groups, and the
content of images, PDF files and archives. Use the header or your own `patterns` for those.
""",
    "responses": """\
`/v1/responses` keeps prompts and responses in the database, because clients continue and retrieve them by id
(`previous_response_id`). When a client sends `"store": false`, nothing is kept. Chat requests are never kept.
""",
    "savings": """\
The dashboard and `/v1/metrics` show what the same tokens would cost at this backend, and how much the router saved.
Give every backend a `price`, and your own machine `{input: 0, output: 0}`. A backend without a price makes the sum
unknown.
""",
}
_DETECTORS = {
    "api_key": "keys, tokens and webhook addresses of more than 200 services, by their form "
    "(`app/routing/private/secrets.txt` lists them with their sources), and random values after names such as "
    "`MISTRAL_API_KEY=`",
    "private_key": "PEM, PGP, OpenSSH, PuTTY, WireGuard, JWK and age private keys, whole or cut, also in JSON",
    "jwt": "JSON Web Tokens, signed or encrypted",
    "connection_string": "`scheme://user:password@host`, `;Password=…;`, `password=` of libpq and JDBC",
    "authorization": "`Authorization:` with any scheme, `X-…-Key:`, `Cookie:` with a session, `curl -u user:password`",
    "password": "a value of letters mixed with digits or signs, after a word for password (15 languages), after "
    "`--password`, in `.netrc` or in SQL; password hashes",
    "credit_card": "card numbers of the known issuers that pass the Luhn check, also in groups that are separated by "
    "spaces, hyphens, dots, tabs or line breaks",
    "iban": "account numbers with the structure of their country that pass the IBAN check, also in groups",
    "us_ssn": "US social security numbers, except those that were never issued",
    "email": "e-mail addresses, also `jo(at)corp.example`; not `noreply@…`, `git@…`, `…@example.com`",
    "phone": "numbers with a country code or the trunk prefix 0; North American, Indian, Brazilian, Russian and "
    "Chinese numbers; any number after a word for telephone",
}


def keys() -> list[dict[str, str]]:
    """Return every key: its section, its name, its legal values, its default and its meaning."""
    own = {
        f"backends.NAME of type {name}": type("Own", (Schema,), dict(kind.policy_fields))().fields
        for name, kind in BACKEND_TYPES.items()
    }
    sections: dict[str, Fields] = {"Top level": PolicySchema().fields, "backends.NAME": BackendSchema().fields, **own}
    sections |= {
        "pools.NAME": PoolSchema().fields,
        "routes[n]": RouteSchema().fields,
        "routes[n].match": MatchSchema().fields,
        "routes[n].verify": VerifySchema().fields,
    }
    for name, field in PolicySchema().fields.items():
        if isinstance(field, fields.Nested):
            sections[name] = field.schema.fields
    columns = ("section", "key", "value", "default", "meaning")
    return [
        dict(zip(columns, (section, *row), strict=True))
        for section, members in sections.items()
        for row in _rows(members)
    ]


def reference() -> str:
    """Return the whole page."""
    sections = [
        _INTRO,
        _section("Top level", PolicySchema().fields),
        f"## backends.NAME\n\n{_TYPES}\n{_types()}\n{_BACKENDS}\n{_table(BackendSchema().fields)}",
        *_own_keys(),
        _section("pools.NAME", PoolSchema().fields, _POOLS),
        _section("routes[n]", RouteSchema().fields, _ROUTES),
        _section("routes[n].match", MatchSchema().fields, _MATCH),
        _section("routes[n].verify", VerifySchema().fields, _VERIFY),
        _NAMES,
    ]
    for name, field in PolicySchema().fields.items():
        if isinstance(field, fields.Nested):
            sections.append(_section(name, field.schema.fields, _TEXTS[name]))
            if name == "sensitivity":
                sections.append(_detectors())
    return "\n".join(sections)


def _types() -> str:
    rows = [
        f"| `{name}` | {kind.default_endpoint or 'none'} | {', '.join(kind.default_models) or '-'} "
        f"| {kind.default_key_env or '-'} | {'no' if kind.hosted else 'if private'} |"
        for name, kind in BACKEND_TYPES.items()
    ]
    head = "| type | default endpoint | default model | key variable | local |\n| --- | --- | --- | --- | --- |"
    return "\n".join((head, *rows)) + "\n"


def _own_keys() -> Iterator[str]:
    """Yield a section for each type that has keys of its own."""
    for name, kind in BACKEND_TYPES.items():
        if kind.policy_fields:
            own = type("Own", (Schema,), dict(kind.policy_fields))
            yield _section(f"backends.NAME of type {name}", own().fields, "This type has these keys too:\n")


def _detectors() -> str:
    rows = "\n".join(f"| `{name}` | {_DETECTORS[name]} |" for name in DETECTORS)
    ids = ", ".join(f"`{name}` ({national_ids.about(name)})" for name in national_ids.NAMES)
    return (
        f"`recommended` stands for {', '.join(f'`{name}`' for name in RECOMMENDED)}. These detectors hardly ever "
        "match harmless text. `flask init` writes `recommended`. A list may contain it and others: "
        "`[recommended, email]`.\n\n"
        f"| detector | finds |\n| --- | --- |\n{rows}\n"
        "\nThe detectors of national identity, tax and health numbers need one more package: "
        "`pip install -r requirements-ids.txt`. They verify the check digits of the country. A number that looks like "
        "any other number counts only after a word that names it, as in `NHS number 943 476 5919`. None of them is "
        f"part of `recommended`:\n\n{ids}\n"
    )


def _section(title: str, members: Fields, text: str = "") -> str:
    return f"## {title}\n\n{text}\n{_table(members)}" if text else f"## {title}\n\n{_table(members)}"


def _table(members: Fields) -> str:
    rows = "\n".join(f"| `{key}` | {' | '.join(rest)} |" for key, *rest in _rows(members))
    return f"| key | value | default | meaning |\n| --- | --- | --- | --- |\n{rows}\n"


def _rows(members: Fields, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    for name, field in members.items():
        assert isinstance(field, fields.Field)
        key = prefix + (field.data_key or name)
        default = "**required**" if field.required else field.metadata.get("default") or "-"
        yield key, _kind(field), default, field.metadata.get("help", "")
        if isinstance(field, fields.Nested) and key in ("price", "timeouts"):
            yield from _rows(field.schema.fields, f"{key}.")


def _kind(field: object) -> str:
    """Return the legal values of a field, in words."""
    if isinstance(field, Choice):
        return "one of " + " ".join(f"`{choice}`" for choice in field.choices)
    if isinstance(field, Choices):
        return "some of " + " ".join(f"`{choice}`" for choice in field.choices)
    if isinstance(field, DetectorNames):
        return "`recommended`, or a list of detectors (see below)"
    if isinstance(field, Condition):
        return " ".join(f"`{choice}`" for choice in field.choices) if field.choices else "`{min, max}`"
    if isinstance(field, Number):
        low = f"above {field.low:.15g}" if field.above else f"from {field.low:.15g}"
        high = f" to {field.high:.15g}" if field.high < float("inf") else ""
        return f"{'whole number' if field.whole else 'number'} {low}{high}"
    if isinstance(field, Names) and field.keys:
        return "mapping of " + ", ".join(f"`{key}`" for key in field.keys) + " to a model"
    for kind, words in _KINDS:
        if isinstance(field, kind):
            return words
    return "mapping"


_KINDS: tuple[tuple[type, str], ...] = (
    (Text, "text"),
    (Flag, "`true` or `false`"),
    (FlagCondition, "`true` or `false`"),
    (FlagOrAuto, "`true`, `false` or `auto`"),
    (Duration, "seconds, or `30s`, `10m`, `2h`; -1"),
    (Endpoint, "http(s) address"),
    (EnvName, "name of a variable"),
    (NameList, "name or list of names"),
    (Windows, "tokens, or mapping of model to tokens"),
    (Limits, "whole number, or mapping of model to whole number"),
    (Weights, "mapping of name to number above 0"),
    (Names, "mapping of name to name"),
    (Patterns, "list of RE2 patterns"),
    (fields.List, "list"),
)
