"""The reference: every key of the schema, as a person looks it up."""

from __future__ import annotations

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
        "## routes[n]",
        "## routes[n].match",
        "## ab",
        "## sensitivity",
        "## responses",
    ]


def test_rows_as_a_person_reads_them() -> None:
    assert rows("ab") == [
        "| `enabled` | `true` or `false` | false | mirror requests at all |",
        "| `sampleRate` | number from 0 to 1 | 0 | share mirrored, 0 to 1 |",
        "| `candidates` | mapping of name to name | - | primary: candidate that is tried beside it |",
    ]
    assert "| `p50Ms` | number above 0 | - | expected latency in ms until it is measured |" in LINES
    assert "| `type` | one of " + " ".join(f"`{name}`" for name in BACKEND_TYPES) + " | **required** |" in TEXT
    assert "| `price.input` | number from 0 | **required** | USD per million input tokens |" in LINES
    assert "| `timeouts.idleMs` | number above 0 | LLR_IDLE_TIMEOUT | between two pieces of it |" in LINES
    assert "| `maxRows` | whole number from 1 to 10000000 | 10000 | how many |" in LINES
    assert "| `openai` | https://api.openai.com/v1 | - | OPENAI_API_KEY | no |" in LINES
    assert "| `ollama` | http://localhost:11434 | - | - | if private |" in LINES
    assert "| `tokens` | `{min, max}` | - | estimated input tokens, as {min, max} |" in LINES


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
