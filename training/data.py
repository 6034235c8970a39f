"""Read the training data: public prompts from a folder, and our own from OWN_FILES and difficulty.txt."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OWN_FILES = ("seeds.txt", "counterexamples.txt", "operations.txt", "live.txt")
SEED_COPIES = 5
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
# Collections whose rows have many names: each collection is one source.
_FAMILIES = {
    "FLAN": "FLAN templates",
    "CLINC": "CLINC150",
    "super-ni": "super-ni",
    "arena-hard": "arena-hard",
    "dolly": "dolly",
    "Natural Questions": "Natural Questions",
    "Snips": "Snips",
}
_TEXTS = {"dolly": "dolly", "super-ni": "super-ni", "qmsum": "QMSum"}  # "FLAN template x dolly" has the texts of dolly


@dataclass(frozen=True, slots=True)
class Prompt:
    text: str
    task: str
    source: str  # left out as a whole in the evaluation
    touches: frozenset[str]  # every source of the text


def public_prompts(folder: Path) -> list[Prompt]:
    """Return the prompts of task_dev.jsonl."""
    return [
        Prompt(row["text"], row["label"], _source(row["source"]), _touches(row["source"]))
        for row in _rows(folder / "task_dev.jsonl")
    ]


def cost_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of cost_quality_dev.jsonl and mmlupro_rows.jsonl: a prompt, and the results of models."""
    return [*_rows(folder / "cost_quality_dev.jsonl"), *_rows(folder / "mmlupro_rows.jsonl")]


def own_levels(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Return the prompts of difficulty.txt, each with its task, by the model that they need."""
    levels: dict[str, list[tuple[str, str]]] = {}
    level = task = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("[") and line.endswith("]"):
            level, task = line[1:-1].split()
        elif level and line:
            levels.setdefault(level, []).append((line.replace("\\n", "\n"), task))
    return levels


def own_prompts(folder: Path, seed: int) -> list[Prompt]:
    """Return our own prompts.  A template with placeholders gives several prompts with different values."""
    rng = random.Random(seed)
    values_of: dict[str, list[str]] = {}
    prompts: list[Prompt] = []
    for name in OWN_FILES:
        section, source = "", f"own {name}"
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            if line.startswith("[") and line.endswith("]"):
                section = line[1:-1]
            elif section == "placeholders" and " = " in line:
                placeholder, values = line.split(" = ", 1)
                values_of[placeholder] = values.split(" | ")
            elif section and line:
                filled = {_fill(line, values_of, rng) for _ in range(SEED_COPIES if _PLACEHOLDER.search(line) else 1)}
                prompts += [Prompt(text, section, source, frozenset({source})) for text in sorted(filled)]
    return prompts


def _fill(template: str, values_of: dict[str, list[str]], rng: random.Random) -> str:
    def value(match: re.Match[str]) -> str:
        return rng.choice(values_of[match[1]]) if match[1] in values_of else match[0]

    return _PLACEHOLDER.sub(value, _PLACEHOLDER.sub(value, template)).replace("\\n", "\n")


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def _source(name: str) -> str:
    return next((family for start, family in _FAMILIES.items() if name.startswith(start)), name)


def _touches(name: str) -> frozenset[str]:
    texts = name.partition(" x ")[2]
    return frozenset({_source(name), *(source for mark, source in _TEXTS.items() if mark in texts)})
