"""`make bench-verify`: its figures are right, and it says what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.small_model import questions
from benchmarks.verify import apgr, auroc, calibration_error, calls_for, recovered
from tests.documents import ROOT

WEAK, STRONG = [0, 0, 1, 1], [1, 1, 1, 1]


def test_apgr() -> None:
    perfect = recovered([0.9, 0.8, 0.2, 0.1], WEAK, STRONG)
    assert apgr(perfect) == pytest.approx(0.75)  # the whole gap for half of the calls
    assert apgr(recovered([1, 1, 1, 1], WEAK, STRONG)) == pytest.approx(0.5)
    assert [calls_for(perfect, percent) for percent in (50, 100)] == [25.0, 50.0]


def test_auroc() -> None:
    assert auroc([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0]) == 1.0
    assert auroc([0.5, 0.5, 0.5, 0.5], [1, 1, 0, 0]) == 0.5


def test_calibration_error() -> None:
    assert calibration_error([0.75] * 4, [1, 1, 1, 0]) == 0.0
    assert calibration_error([0.75] * 4, [0, 0, 0, 0]) == 0.75


def test_without_data_it_says_what_is_missing(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.verify", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    missing = tmp_path / "doubt_dev.jsonl"
    assert run.stderr == f"{missing} is not there: make bench-verify DATA=FOLDER, with doubt_dev.jsonl in it\n"


def test_it_prints_a_table(tmp_path: Path) -> None:
    row = {
        "id": "a", "set": "tiny", "group": "sums", "question": "What is 2 + 3?", "model": "SmolLM2-135M-Instruct",
        "samples": ["5", "5"], "strong_correct": 1,
    }  # fmt: skip
    answers = [("5", 1), ("6", 0), ("2 + 3 = 5", 1), ("2 + 3 = 7", 0)]
    lines = [json.dumps(row | {"answer": answer, "correct": correct}) for answer, correct in answers]
    (tmp_path / "doubt_dev.jsonl").write_text("\n".join(lines), "utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.verify", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "| tiny (4, 50 % wrong) | + two opinions | 0.750 |" in run.stdout
    assert "CPU time with one opinion: median" in run.stdout


def test_the_small_model_is_asked_220_questions() -> None:
    assert len(questions()) == 220
    assert all(question.is_right(question.right[0]) for question in questions())
