"""The reference: every key of the schema, as a person looks it up."""

from __future__ import annotations

import pytest
from marshmallow import Schema, fields

from app.backends import BACKEND_TYPES
from app.policy.docs import reference
from app.policy.schema import PolicySchema
from app.routing.detect import DETECTORS
from app.types import COMPLEXITIES, FAMILIES, MODALITIES, TASKS

TEXT = reference()
LINES = TEXT.splitlines()


def rows(title: str) -> list[str]:
    """The keys of one section's table."""
    body = TEXT.split(f"## {title}\n")[1].split("\n## ")[0]
    return [line for line in body.splitlines() if line.startswith("| `")]


def test_every_section_is_there_once_and_in_order() -> None:
    assert [line for line in LINES if line.startswith("#")] == [
        "# Policy reference",
        "## Top level",
        "## backends.NAME",
        "## backends.NAME of type ollama",
        "## backends.NAME of type anthropic",
        "## pools.NAME",
        "## routes[n]",
        "## routes[n].match",
        "## routes[n].verify",
        "## Names",
        "## complexity",
        "## conversations",
        "## ab",
        "## sensitivity",
        "## responses",
        "## savings",
    ]


def row(title: str, key: str) -> list[str]:
    """Value and default of one key."""
    (line,) = [line for line in rows(title) if line.startswith(f"| `{key}` |")]
    return [cell.strip() for cell in line.split("|")[2:4]]


@pytest.mark.parametrize(
    "title, key, value, default",
    [
        ("backends.NAME", "type", "one of " + " ".join(f"`{name}`" for name in BACKEND_TYPES), "**required**"),
        ("backends.NAME", "endpoint", "http(s) address", "-"),
        ("backends.NAME", "models", "name or list of names", "-"),
        ("backends.NAME", "p50Ms", "number above 0", "-"),
        ("backends.NAME", "price.input", "number from 0", "**required**"),
        ("backends.NAME", "timeouts.idleMs", "number above 0", "LLR_IDLE_TIMEOUT"),
        ("backends.NAME", "maxConcurrency", "whole number, or mapping of model to whole number", "0"),
        ("routes[n].match", "tokens", "`{min, max}`", "-"),
        ("routes[n].match", "complexity", "`low` `medium` `high`", "-"),
        ("ab", "enabled", "`true` or `false`", "false"),
        ("ab", "sampleRate", "number from 0 to 1", "0.05"),
        ("responses", "maxRows", "whole number from 1 to 10000000", "10000"),
        ("responses", "maxTurnBytes", "whole number from 1024 to 1073741824", "8388608 (8 MiB)"),
    ],
)
def test_a_row_as_a_person_reads_it(title: str, key: str, value: str, default: str) -> None:
    assert row(title, key) == [value, default]


def test_every_type_has_a_row_with_its_defaults() -> None:
    for name, kind in BACKEND_TYPES.items():
        (line,) = [line for line in rows("backends.NAME") if line.startswith(f"| `{name}` |")]
        assert f"| {kind.default_endpoint} |" in line
        assert f"| {kind.default_key_env or '-'} |" in line


def test_every_legal_value_is_listed() -> None:
    match = "\n".join(rows("routes[n].match"))
    for value in (*TASKS, *COMPLEXITIES, *MODALITIES, *FAMILIES):
        assert f"`{value}`" in match
    for name in DETECTORS:
        assert f"`{name}`" in "\n".join(rows("sensitivity"))


def test_every_key_of_the_schema_has_a_row_with_help() -> None:
    def keys(schema: Schema) -> list[str]:
        found = []
        for name, field in schema.fields.items():
            found.append(field.data_key or name)
            inner = field.inner if isinstance(field, fields.List) else field
            if isinstance(inner, fields.Nested):
                found += keys(inner.schema)
        return found

    listed = [line.split("`")[1].rpartition(".")[2] for line in LINES if line.startswith("| `")]
    for key in keys(PolicySchema()):
        assert key in listed
    assert not [line for line in LINES if line.startswith("| `") and line.endswith("|  |")]
