"""The glossary of ARCHITECTURE.md holds: no banned synonym is used, variables are nouns, docstrings are sentences."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.measure import fragments
from tests.documents import ROOT, Document

FOLDERS = ("app", "benchmarks", "training", "demo", "deploy", "docs")
ENDINGS = {".py", ".md", ".html", ".js", ".yaml", ".conf", ".service"}
# Names of rows, JSON members, variables, log lines, products and other packages: they do not change.
ALLOWED = re.compile(
    r"slots=True|__slots__|endpoint_slots|total_slots|LLR_COOLDOWN|cooldown_s|cooling down for|\"mirrors\"|`mirrors`"
    r"|gave_up|WireGuard"
)
NOT_NOUNS = {"found", "seen", "known", "said", "asked", "kept", "told", "made", "begun", "given", "taken"}


def synonyms() -> dict[str, re.Pattern[str]]:
    cells = (row[2] for row in Document.read("ARCHITECTURE.md").rows("word", "meaning", "not"))
    words = (word.strip() for cell in cells for word in cell.split(","))
    return {word: pattern_of(word) for word in words if word}


def pattern_of(word: str) -> re.Pattern[str]:
    """Return a pattern for a word and its other forms.  A hyphen or a blank in it may be absent."""
    parts = map(re.escape, re.split(r"[ -]", word))
    return re.compile(rf"\b{'[ -]?'.join(parts)}(?:s|es|ed|ing)?\b")


def separated(text: str) -> str:
    """Return a text in lower case with a blank between the words of a name: `HangUp` and `hang_up` are `hang up`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", text).lower()


def files() -> Iterator[Path]:
    yield from (path for path in sorted(ROOT.iterdir()) if path.suffix in ENDINGS)
    for folder in FOLDERS:
        yield from (path for path in sorted((ROOT / folder).rglob("*")) if path.suffix in ENDINGS)


def text_of(path: Path) -> str:
    """Return the text of a file, without the glossary itself."""
    text = path.read_text("utf-8")
    if path.name != "ARCHITECTURE.md":
        return text
    before, _, rest = text.partition("## Glossary\n")
    glossary, _, after = rest.partition("\n## ")
    return before + "\n" * glossary.count("\n") + after


def test_no_synonym_is_used() -> None:
    patterns = synonyms()
    assert len(patterns) > 20
    places = [
        f"{path.relative_to(ROOT)}:{number}: {word}"
        for path in files()
        for number, line in enumerate(text_of(path).splitlines(), 1)
        for word, pattern in patterns.items()
        if pattern.search(separated(ALLOWED.sub("", line)))
    ]
    assert not places, "use the word of the glossary in ARCHITECTURE.md:\n" + "\n".join(places)


@pytest.mark.parametrize(
    "text, word",
    [
        ("_slot_of", "slot"), ("Slots", "slot"), ("cooldowns", "cool-down"), ("HangUp", "hang-up"),
        ("It was mirrored.", "mirror"), ("who may come in", "who may come in"),
    ],
)  # fmt: skip
def test_every_form_of_a_synonym_counts(text: str, word: str) -> None:
    assert synonyms()[word].search(separated(text))


def names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield every name that a module gives to a variable, an argument or an attribute, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def test_variables_are_nouns() -> None:
    places = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted((ROOT / "app").rglob("*.py"))
        for line, name in names(ast.parse(path.read_text("utf-8")))
        if name.strip("_") in NOT_NOUNS
    ]
    assert not places, "\n".join(places)


def test_docstrings_are_sentences() -> None:
    assert not fragments(ROOT)
