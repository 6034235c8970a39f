"""`flask verify`: the report on judged answers, and the search for a doubt."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result

from app import create_app
from app.metrics.store import Store
from app.routing.doubt import doubt
from app.storage import now_ms
from app.types import CallRecord
from app.words import utc
from tests import build
from tests.metrics.judged_rows import OPINION, POLICY, SMALL, escalated, first, kept, later

Run = Callable[..., Result]
HOUR_MS = 3_600_000


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("verify", "report")` as `flask verify report`, with the policy in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("LLR_DB", "./metrics.db")
    (tmp_path / "policy.yaml").write_text(POLICY)
    environ = {"LLR_POLICY": "./policy.yaml", "LLR_DB": "./metrics.db", "FLASK_RUN_FROM_CLI": "true"}

    def invoke(*arguments: str, text: str | None = None) -> Result:
        result = create_app(environ).test_cli_runner().invoke(args=arguments, input=text)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke


def fill(calls: Iterable[CallRecord], ago_ms: int = 0) -> int:
    """Write the calls as if they had ended so long ago; return the time."""
    at = now_ms() - ago_ms
    with closing(Store("metrics.db")) as store:
        store.write([build.changed(call, ts_ms=at) for call in calls])
    return at


# --- report ---------------------------------------------------------------------------------------


def test_a_report_names_the_file_the_time_and_every_number(run: Run) -> None:
    calls = [*kept(1), *kept(2), *kept(3), *escalated(1), first(verified="observed"), first()]
    at = fill(calls)
    output = run("verify", "report", "--since", "24h").output
    assert output.startswith(f"./metrics.db: rows since {utc(at)}\nanswers judged since ")
    for line in (
        "  asked first      4 of 6 requests",
        "  kept             3 (75.0%)",
        "  escalated        1 (25.0%): 1 agreement",
        "  observed         1",
        "  added time       250 ms on average, 400 ms at p95",
        "  second opinions  3, 0 USD",
    ):
        assert f"\n{line}" in output, output
    document = json.loads(run("verify", "report", "--since", "24h", "--json").output)
    assert (document["database"], document["rows_since"]) == ("./metrics.db", utc(at))
    (route,) = document["routes"]
    assert (route["route"], route["kept"], route["reasons"]) == ("default", 3, {"agreement": 1})
    assert document["total"]["asked_first"] == 4 and "since" in document


def test_a_window_leaves_older_answers_out(run: Run) -> None:
    fill(kept(1), 30 * HOUR_MS)
    fill(escalated(1))
    day, week = (json.loads(run("verify", "report", "--since", since, "--json").output) for since in ("24h", "7d"))
    assert [report["total"]["asked_first"] for report in (day, week)] == [1, 2]


def test_an_unknown_price_is_named(run: Run) -> None:
    fill([*kept(1), later(**{**OPINION, **SMALL, "cost_usd": None})])
    output = run("verify", "report").output
    assert "saved            an unknown amount: no price for peer" in output
    assert "second opinions  2, an unknown cost" in output


def test_nothing_was_judged(run: Run) -> None:
    fill([first()])
    assert "no route has judged answers since" in run("verify", "report").output
    assert json.loads(run("verify", "report", "--json").output)["routes"] == []


def test_no_rows(run: Run) -> None:
    fill([])
    assert "no rows since" in run("verify", "report").output


# --- replay ---------------------------------------------------------------------------------------


def test_a_replay_prints_what_another_doubt_would_have_done(run: Run, tmp_path: Path) -> None:
    """The rows are of another policy, so their doubts are compared with the limit of this one."""
    text = POLICY.replace("    fallback: strong\nsavings", "    fallback: strong\n    verify: {doubt: 0.1}\nsavings")
    (tmp_path / "new.yaml").write_text(text)
    tags = {"difficulty": 0.2, "sensitivity": "normal", "modality": "text", "family": "any", "tokens": 10}
    fill([build.changed(call, **tags) for call in [*kept(1), *kept(2), *escalated(1)]])
    output = run("policy", "replay", "new.yaml").output
    for line in (
        "answers judged  then  now",
        "kept               2    0",
        "escalated          1    3",
        "cost     then 0.0014 USD, now 0.0038 USD (known for 3 of 3)",
    ):
        assert f"\n{line}\n" in output, output


# --- tune -----------------------------------------------------------------------------------------

QUESTION = "What is 17 times 3?"


def labelled(answer: str, second: str, correct: object, **more: object) -> str:
    return json.dumps({"question": QUESTION, "answer": answer, "second": second, "correct": correct, **more})


AGREE, DIFFER = labelled("51", "51", True, strong_correct=1), labelled("53", "51", 0, strong_correct=True)
FILE = "\n".join([*[AGREE] * 160, *[DIFFER] * 40]) + "\n"


def tuned(run: Run, text: str, *arguments: str) -> dict[str, object]:
    result = run("verify", "tune", "-", *arguments, "--json", text=text)
    document: dict[str, object] = json.loads(result.stdout)
    return document


def test_a_doubt_for_a_share(run: Run) -> None:
    """The doubt parts the answers whose second opinion agrees from the others."""
    agree, differ = doubt(QUESTION, "51", second="51"), doubt(QUESTION, "53", second="51")
    document = tuned(run, FILE, "--share", "0.2")
    assert agree < float(str(document["doubt"])) < differ
    assert (document["share"], document["quality"], document["small_quality"]) == (0.2, 1.0, 0.8)
    assert (document["rows"], document["skipped"], document["auroc"], document["enough"]) == (200, 0, 1.0, True)
    assert tuned(run, FILE, "--share", "0.1")["share"] == 0


def test_a_doubt_for_a_quality(run: Run) -> None:
    document = tuned(run, FILE, "--quality", "0.9")
    assert (document["share"], document["quality"], document["gap_closed"]) == (0.2, 1.0, 1.0)
    assert tuned(run, FILE, "--quality", "0.8")["share"] == 0


def test_a_quality_that_cannot_be_reached_is_an_error_with_the_best_one(run: Run) -> None:
    result = run(
        "verify", "tune", "-", "--quality", "0.9", text=FILE.replace('"strong_correct": true', '"strong_correct": 0')
    )
    assert result.exit_code == 1
    assert "doubt       none gives a quality of 90.0%; " in result.stdout


def test_the_text_of_the_result(run: Run, tmp_path: Path) -> None:
    (tmp_path / "labelled.jsonl").write_text(FILE)
    output = run("verify", "tune", "labelled.jsonl", "--share", "0.25").output
    for line in (
        "answers     200; 80.0% are right, of the strong model's 100.0%",
        "escalated   20.0%, of at most 25.0%",
        "quality     100.0% are right (95 % interval: 98.1% to 100.0%); 100% of the gap between the models",
    ):
        assert f"{line}\n" in output, output
    assert "\ndoubt       0." in output and "\ncalibration expected error 0." in output and "AUROC 1.00" in output


HILLS = ["Palatine", "Capitoline", "Aventine", "Caelian", "Esquiline", "Quirinal", "Viminal"]
PROSE = json.dumps(
    {
        "question": "Tell me about the history of Rome.",
        "answer": " ".join(
            f"On the {hill} people built houses of stone {n} centuries ago." for n, hill in enumerate(HILLS * 4)
        ),
        "correct": 1,
    }
)


@pytest.mark.parametrize(
    "text, note",
    [
        (AGREE, "these are few answers, so the numbers are rough; use at least 200"),
        (labelled("51", "51", 1), "`strong_correct` is missing in 1 line: there the strong model counts as right"),
        (labelled("", "51", 0), "1 answer with a fault in the structure: always escalated"),
        (labelled("", "51", 0), "more answers have a fault in the structure than may be escalated"),
        (PROSE, "no line has `second` or `logprobs`; without both, the router judges an answer by its structure alone"),
        (PROSE, "1 answer without `logprobs` that no other answer can be compared with: always kept"),
    ],
)
def test_what_limits_the_result_is_said(run: Run, text: str, note: str) -> None:
    assert note in " ".join(run("verify", "tune", "-", "--share", "0.5", text=text).output.split())


@pytest.mark.parametrize("second, without", [(None, 1), ("call", 0)])
def test_a_call_of_a_tool_needs_another_one_beside_it(run: Run, second: str | None, without: int) -> None:
    function = {"name": "count", "arguments": "{}"}
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]}
    tools = [{"type": "function", "function": {"name": "count", "parameters": {"type": "object"}}}]
    request = {"messages": [{"role": "user", "content": QUESTION}], "tools": tools}
    row = {"question": QUESTION, "answer": call, "second": second and call, "correct": 1, "request": request}
    document = tuned(run, json.dumps(row), "--share", "0.5")
    assert (document["without_evidence"], document["faults"]) == (without, 0)


def test_log_probabilities_are_evidence(run: Run) -> None:
    sure, unsure = ({"logprobs": [value] * 20} for value in (-0.01, -2.0))
    rows = [labelled("51", "51", 1, **sure), labelled("51", "51", 0, **unsure)]
    assert tuned(run, "\n".join(rows * 10), "--share", "0.5")["auroc"] == 1.0


BAD_LINES = [
    ("{", "it is not valid JSON"),
    ("[1]", "it is not valid JSON: The top level must be an object"),
    ('{"question": 1, "answer": "x", "correct": 1}', "`question` must be a text."),
    ('{"question": " ", "answer": "x", "correct": 1}', "`question` must be a text."),
    ('{"question": "q", "correct": 1}', "`answer` must be a text or a message."),
    ('{"question": "q", "answer": "x"}', "`correct` must be true or false, or 1 or 0."),
    ('{"question": "q", "answer": "x", "correct": "yes"}', "`correct` must be true or false, or 1 or 0."),
    ('{"question": "q", "answer": "x", "correct": 2}', "`correct` must be true or false, or 1 or 0."),
    ('{"question": "q", "answer": "x", "correct": [1]}', "`correct` must be true or false, or 1 or 0."),
    ('{"question": "q", "answer": "x", "correct": 1, "strong_correct": 0.5}', "`strong_correct` must be true or false"),
    ('{"question": "q", "answer": "x", "correct": 1, "second": 5}', "`second` must be a text or a message"),
    ('{"question": "q", "answer": "x", "correct": 1, "logprobs": "high"}', "`logprobs` must be a list"),
    ('{"question": "q", "answer": "x", "correct": 1, "logprobs": [0.5]}', "`logprobs` must be a list"),
    ('{"question": "q", "answer": "x", "correct": 1, "logprobs": [true]}', "`logprobs` must be a list"),
    ('{"question": "q", "answer": "x", "correct": 1, "request": []}', "`request` must be a chat body."),
    ('{"question": "q", "answer": "x", "correct": 1, "finish": 3}', "`finish` must be a text."),
    ('{"question": "q", "answer": "x", "correct": NaN}', "it is not valid JSON"),
    ("[" * 5000, "it "),
]


@pytest.mark.parametrize("line, why", BAD_LINES)
def test_a_bad_line_is_named_and_left_out(run: Run, line: str, why: str) -> None:
    result = run("verify", "tune", "-", "--share", "0.5", "--json", text=f"{AGREE}\n\n{line}\n{AGREE}\n")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"line 3: {why}") and result.stderr.count("\n") == 1
    document = json.loads(result.stdout)
    assert (document["rows"], document["skipped"]) == (2, 1)


def test_of_many_bad_lines_the_first_are_named(run: Run) -> None:
    result = run("verify", "tune", "-", "--share", "0.5", text="{\n" * 100 + AGREE)
    assert result.stderr.count("line ") == 20 and "80 more lines cannot be used" in result.stderr


@pytest.mark.parametrize("text", ["", "\n\n", "{}\n"])
def test_a_file_without_answers_is_an_error(run: Run, text: str) -> None:
    result = run("verify", "tune", "-", "--share", "0.5", text=text)
    assert result.exit_code == 1
    assert "<stdin> has no line to use: each needs `question`, `answer` and `correct`" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    ["", "--share 0.2 --quality 0.9", "--share 1.5", "--share 0", "--quality nan", "--share x", "--quality -1"],
)
def test_what_is_wanted_must_be_said_once(run: Run, arguments: str) -> None:
    result = run("verify", "tune", "-", *arguments.split(), text=AGREE)
    assert result.exit_code == 2 and "Error: " in result.stderr


def test_a_missing_file_is_named(run: Run) -> None:
    result = run("verify", "tune", "no-such.jsonl", "--share", "0.2")
    assert result.exit_code == 2 and "no-such.jsonl" in result.stderr


def test_tune_needs_no_policy(run: Run, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").unlink()
    assert tuned(run, FILE, "--share", "0.2")["share"] == 0.2
