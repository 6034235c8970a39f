"""`flask verify tune`: find the `doubt` to write, from answers whose correctness is known."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import click

from app.cli.common import counted, print_json
from app.cli.options import PositiveNumber, as_json
from app.cli.table import folded
from app.errors import RequestError
from app.metrics.labelled import ENOUGH, Labelled, Limit
from app.routing.answer.comparable import comparable
from app.routing.answer.structure import structure
from app.routing.doubt import doubt
from app.types import JsonDict, JsonObject
from app.wire.json_body import read_object

_INDENT = 12
_MOST_NAMED = 20  # bad lines that are named one by one
_SHOW_EVERY = 1000  # lines, on a terminal
_WELL_CALIBRATED = 0.1  # expected calibration error
_MEMBERS = "`question`, `answer` and `correct`"


@dataclass(frozen=True, slots=True)
class _Row:
    """Hold one line of the file."""

    question: str
    answer: str | JsonDict
    right: bool
    strong_right: bool | None
    second: object
    logprobs: list[float] | None
    request: JsonObject
    finish: str | None


@click.command("tune")
@click.argument("labelled", type=click.File("rb"), metavar="LABELLED.jsonl")
@click.option("--share", type=PositiveNumber(1), metavar="0…1", help="The share of answers that may be escalated.")
@click.option("--quality", type=PositiveNumber(1), metavar="0…1", help="The share of right answers that is wanted.")
@click.option("--samples", is_flag=True, help="`second` is another sample of the same model, which counts less.")
@as_json
def verify_tune(labelled: BinaryIO, share: float | None, quality: float | None, samples: bool, as_json: bool) -> None:
    """Print the `doubt` that escalates a share of your answers, or that reaches a quality.

    Each line of LABELLED.jsonl (- reads standard input) is an object: `question`, `answer` (a text, or a message of the
    assistant) and `correct` (true or false, or 1 or 0). It may have `second` (the second opinion), `logprobs` (natural
    logarithms of the tokens' probabilities), `strong_correct` (whether the stronger model is right; true when it is
    absent), `request` (the chat body) and `finish` (the finish reason). Give the members that your route judges by.

    Calls no backend, and needs no policy. Lines that cannot be used are named and left out; then the exit status is 1.
    """
    if (share is None) == (quality is None):
        raise click.UsageError("give one of --share and --quality")
    answers, reader, name = Labelled(), _Reader(labelled), str(getattr(labelled, "name", "<stdin>"))
    bare = 0  # lines that have nothing but the answer to judge by
    for row in reader:
        _add(answers, row, is_sample=samples)
        bare += not row.second and not row.logprobs
    if not answers.all.answers:
        raise click.ClickException(f"{name} has no line to use: each needs {_MEMBERS}")
    limit = answers.by_share(share) if share is not None else answers.by_quality(quality or 0)
    document = {"file": name, **_document(answers, limit), "bare": bare, "skipped": reader.skipped}
    if as_json:
        print_json(document)
    else:
        click.echo("\n".join(folded(title, text, _INDENT) for title, text in _lines(document, share, quality)))
    if reader.skipped or limit is None:
        raise SystemExit(1)


def _add(answers: Labelled, row: _Row, *, is_sample: bool) -> None:
    """Count an answer as the router would treat it.  Its doubt counts only when there is evidence about it."""
    if structure(row.request, row.answer, row.finish):
        answers.add_fault(row.right, row.strong_right)
    elif row.logprobs or _is_comparable(row):
        value = doubt(
            row.question,
            row.answer,
            second=row.second,
            logprobs=row.logprobs,
            request=row.request,
            finish=row.finish,
            sampled=is_sample,
        )
        answers.add(value, row.right, row.strong_right)
    else:
        answers.add_without_evidence(row.right, row.strong_right)


def _is_comparable(row: _Row) -> bool:
    """Return True when the answer can be compared.  The call of a tool has no text, so it needs a second one."""
    has_text = isinstance(row.answer, str) or not row.answer.get("tool_calls")
    return bool(has_text or row.second) and comparable(row.question, row.answer, row.request)


# --- reading ------------------------------------------------------------------------------------


class _Reader:
    """Yield the rows of a file, line by line, and name the lines that cannot be used."""

    def __init__(self, lines: BinaryIO) -> None:
        self.skipped = 0
        self._lines = lines

    def __iter__(self) -> Iterator[_Row]:
        has_progress = sys.stderr.isatty()
        for number, line in enumerate(self._lines, 1):
            if has_progress and number % _SHOW_EVERY == 0:
                click.echo(f"\r{number} lines", nl=False, err=True)
            if not line.strip():
                continue
            try:
                yield _row(read_object(line).document)
            except RequestError as error:
                self._skip(number, error.message.replace("The request body", "it"))
        if has_progress:
            click.echo("\r", nl=False, err=True)
        if self.skipped > _MOST_NAMED:
            click.echo(f"{self.skipped - _MOST_NAMED} more lines cannot be used", err=True)

    def _skip(self, number: int, why: str) -> None:
        self.skipped += 1
        if self.skipped <= _MOST_NAMED:
            click.echo(f"line {number}: {why}", err=True)


def _row(line: JsonObject) -> _Row:
    """Return the row of a line.  Raise RequestError when it lacks a member, or has one of a wrong type."""
    question, request = line.get("question"), line.get("request")
    if not isinstance(question, str) or not question.strip():
        raise RequestError("`question` must be a text.")
    if not isinstance(line.get("answer"), (str, dict)):
        raise RequestError("`answer` must be a text or a message.")
    if request is not None and not isinstance(request, dict):
        raise RequestError("`request` must be a chat body.")
    if line.get("finish") is not None and not isinstance(line["finish"], str):
        raise RequestError("`finish` must be a text.")
    right = _label(line, "correct")
    if right is None:
        raise RequestError("`correct` must be true or false, or 1 or 0.")
    return _Row(
        question=question,
        answer=line["answer"],
        right=right,
        strong_right=_label(line, "strong_correct"),
        second=_second(line.get("second")),
        logprobs=_logprobs(line.get("logprobs")),
        request=request or {"messages": [{"role": "user", "content": question}]},
        finish=line.get("finish"),
    )


def _label(line: JsonObject, name: str) -> bool | None:
    value = line.get(name)
    if value is None:
        return None
    if value not in (0, 1):  # also false, true, 0.0 and 1.0
        raise RequestError(f"`{name}` must be true or false, or 1 or 0.")
    return bool(value)


def _second(value: object) -> object:
    if value is None or isinstance(value, (str, dict)):
        return value
    if isinstance(value, list) and all(isinstance(one, (str, dict)) for one in value):
        return value
    raise RequestError("`second` must be a text or a message, or a list of them.")


def _logprobs(value: object) -> list[float] | None:
    if value is None:
        return None
    if isinstance(value, list) and all(type(one) in (int, float) and one <= 0 for one in value):
        return value
    raise RequestError("`logprobs` must be a list of natural logarithms, which are 0 or less.")


# --- the result ---------------------------------------------------------------------------------


def _document(answers: Labelled, limit: Limit | None) -> JsonDict:
    """Return the result as JSON; `doubt` is null when no doubt reaches the wanted quality."""
    total, number = answers.all, answers.all.answers
    shown = limit or answers.best()
    effect = shown.document(number)
    gap = total.strong_right - total.right
    return {
        **effect,
        "doubt": limit.doubt if limit else None,
        "best_doubt": None if limit else effect["doubt"],
        "rows": number,
        "small_quality": round(total.right / number, 4),
        "strong_quality": round(total.strong_right / number, 4),
        "gap_closed": round((shown.right - total.right) / gap, 4) if gap > 0 else None,
        "calibration_error": _rounded(answers.calibration_error()),
        "auroc": _rounded(answers.auroc()),
        "faults": answers.faults.answers,
        "without_evidence": answers.without_evidence.answers,
        "strong_assumed": answers.assumed,
        "enough": number >= ENOUGH,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _lines(result: JsonObject, share: float | None, quality: float | None) -> Iterator[tuple[str, str]]:
    """Yield the result as titles and texts."""
    rows, best = result["rows"], f"none gives a quality of {quality:.1%}; " if quality is not None else ""
    assumed = " (assumed)" if result["strong_assumed"] == rows else ""
    right = f"{result['small_quality']:.1%} are right, of the strong model's {result['strong_quality']:.1%}{assumed}"
    low, high, gap = result["quality_low"], result["quality_high"], result["gap_closed"]
    closed = "" if gap is None else f"; {gap:.0%} of the gap between the models"
    yield "answers", f"{rows}; {right}"
    yield "doubt", f"{best}{result['best_doubt']:g} is the best" if result["doubt"] is None else f"{result['doubt']:g}"
    yield "escalated", f"{result['share']:.1%}" + ("" if share is None else f", of at most {share:.1%}")
    yield "quality", f"{result['quality']:.1%} are right (95 % interval: {low:.1%} to {high:.1%}){closed}"
    if result["calibration_error"] is not None:
        auroc = "" if result["auroc"] is None else f"; AUROC {result['auroc']:.2f} (0.5: doubt tells nothing)"
        yield "calibration", f"expected error {result['calibration_error']:.3f}{auroc}"
    if share is not None and result["share"] > share:
        yield "note", "more answers have a fault in the structure than may be escalated; no doubt changes that"
    yield from (("note", text) for text in _notes(result))


def _notes(result: JsonObject) -> Iterator[str]:
    """Yield what limits the meaning of the result."""
    if not result["enough"]:
        yield f"these are few answers, so the numbers are rough; use at least {ENOUGH}"
    if result["bare"] == result["rows"]:
        yield (
            "no line has `second` or `logprobs`; without both, the router judges an answer by its structure alone, "
            "whatever the doubt is"
        )
    if missing := result["strong_assumed"]:
        yield f"`strong_correct` is missing in {counted(missing, 'line')}: there the strong model counts as right"
    if unjudged := result["without_evidence"]:
        yield f"{counted(unjudged, 'answer')} without `logprobs` that no other answer can be compared with: always kept"
    if faulty := result["faults"]:
        yield f"{counted(faulty, 'answer')} with a fault in the structure: always escalated"
    if result["calibration_error"] is not None and result["calibration_error"] > _WELL_CALIBRATED:
        yield "on these answers doubt is not calibrated: trust the share, and not the doubt as a probability"
