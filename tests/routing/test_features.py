"""Features: names and keys say the same, no quick look hides what a pattern finds, and results are what they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from app.routing import features as subject
from app.routing.ask import ends
from app.routing.classify import classify_text
from app.routing.difficulty import signs, without_options
from app.routing.features import features, parse_name, signals
from app.routing.model import MODEL

ROUTING = Path(subject.__file__).parent
HERE = Path(__file__).parent
WEIGHTS = json.loads((ROUTING / "weights.json").read_text(encoding="utf-8"))["task"]
GOLDEN = yaml.safe_load((HERE / "golden.yaml").read_text(encoding="utf-8"))
TEXTS = [row["text"] for row in GOLDEN]


@pytest.mark.parametrize("row", GOLDEN, ids=[str(number) for number in range(len(GOLDEN))])
def test_tags_are_what_they_were(row: dict[str, object]) -> None:
    """Work for speed changes no result.  A newly trained model does: then write the figures of the file anew."""
    tags = classify_text(str(row["text"]))
    assert (tags.task, tags.confidence, tags.difficulty) == (row["task"], row["confidence"], row["difficulty"])


def test_a_name_says_its_form_and_key() -> None:
    for name in WEIGHTS["weights"]:
        form, key = parse_name(name)
        assert form.format(*([key] if isinstance(key, str) else key)) == name
    for text in TEXTS:
        keys = {(form, key) for form, keys in signals(text).items() for key in keys}
        assert {parse_name(name) for name in features(text)} == keys


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_points_are_those_of_the_named_features(text: str) -> None:
    names = features(text)
    assert len(names) == len(set(names))
    spoken = [WEIGHTS["weights"][name] for name in names if name in WEIGHTS["weights"]]
    sums = map(sum, zip(*spoken, strict=True)) if spoken else [0] * len(MODEL.labels)
    assert MODEL.points(signals(text)) == [total * WEIGHTS["unit"] for total in sums]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("how do I fix myFunc in foo_bar?", {"#names1", "#names2", "#asks", "#asks head"}),
        ("call print(x) and run(y)", {"#marks1", "#calls1", "#calls2", "#symbols1", "#symbols8"}),
        ("the shoe(s) and the box(es)", {"#symbols1"}),
        ("open foo.bar please", {"#dotted"}),
        ("read it. then write", set()),
        ("what is utf8?", {"#mixed", "#asks"}),
        ("learn DSA now", {"#mixed"}),
        ("Which one? A) red B) blue", {"#options"}),
        ("1 and 2 and 3", {"#digits", "#numbers"}),
        ("١ و ٢ و ٣", {"#digits", "#numbers", "#wide"}),
        ("1 and 2", {"#digits"}),
        ("label these: red, green, blue", {"#colon", "#items"}),
        ("x^2 + $y$", {"#math"}),
        ("```\nfoo\n```", {"#fence", "#marks1"}),
        ("use std::map && auto", {"#marks1", "#marks2"}),
        ("def f", {"#marks1"}),
        ("print it for http://localhost", {"#marks1", "#colon"}),
        ("IMPORT JAVA things", {"#marks1", "#mixed"}),
        ("list\n- a\n- b", {"#dashes"}),
        ("要約して", {"#wide"}),
        ('say "hi"', {"#quoted", "#bare"}),
        ("summarize the book", {"#bare"}),
        ("Summarize this: the council met on Monday", {"#colon", "#given"}),
        ("Is it good? The room was clean and large.", {"#asks head", "#more"}),
        ("The council met.\n\nWhat did it decide?", {"#asks", "#given"}),
    ],
)
def test_shapes(text: str, names: set[str]) -> None:
    found = {name for name in features(text) if name.startswith("#")}
    assert names <= found
    decided = {"#names1", "#calls1", "#dotted", "#mixed", "#options", "#numbers", "#math", "#fence", "#marks1", "#wide"}
    assert found & decided == names & decided


@pytest.mark.parametrize(
    ("text", "ask"),
    [
        ("Summarize this:\nThe council met on Monday.", "Summarize this:"),
        ("The council met on Monday.\n\nWhat did it decide?", "What did it decide?"),
        (
            "The food was cold.\nWhat is the mood?\nOptions:\n- good\n- bad",
            "What is the mood?\nOptions:\n- good\n- bad",
        ),
        ("Article: the council met.\nSummarize it", "Summarize it"),
        ("x = 1\ny = x\nwhy is it 1?", "why is it 1?"),
        ("The council met.\nThe bridge will be closed.", "The council met.\nThe bridge will be closed."),
        ("昨日、市議会は予算を承認した。\n一文でまとめて", "一文でまとめて"),
    ],
)
def test_the_ask_is_found(text: str, ask: str) -> None:
    assert ends(text)[0] == ask


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("What is the boiling point of water?\nA. 90\nB. 100\nC. 110\nAnswer:", "What is the boiling point of water?"),
        ("Which city is the capital of Peru? (A) Rome (B) Lima (C) Oslo", "Which city is the capital of Peru?"),
        ("A. 1\nB. 2\nC. 3\nWhich of these is even?", "A. 1\nB. 2\nC. 3\nWhich of these is even?"),
        ("Plan A) or plan B) is what we need.", "Plan A) or plan B) is what we need."),
        ("Compare A, B and C.", "Compare A, B and C."),
    ],
)
def test_options_do_not_make_a_question_longer(text: str, question: str) -> None:
    assert without_options(text) == question
    assert signs(text, "general", 0.0)["size"] == signs(question, "general", 0.0)["size"]


@pytest.mark.parametrize("word", ["pyhton", "pyton", "pythhon", "fucntion", "sumarize", "databse", "tomorow", "wether"])
def test_a_misspelt_word_counts(word: str) -> None:
    assert subject.LEXICON.count([word])


ODD = st.text(st.sampled_from("abAB_ .()[]{};=:,12\n-s'é漢٣\u00a0"), max_size=120)


@settings(max_examples=500, deadline=None)
@given(ODD)
def test_a_quick_look_hides_nothing(text: str) -> None:
    found, end = set(features(text)), text.rstrip()
    assert ("#names1" in found) == bool(subject._NAME.search(text))
    assert ("#calls1" in found) == bool(subject._CALL.search(text))
    assert ("#dotted" in found) == bool(subject._DOTTED.search(text))
    assert ("#mixed" in found) == bool(subject._MIXED.search(text))
    assert ("#options" in found) == (len(subject._OPTION.findall(end)) >= 2)
    assert ("#numbers" in found) == (len(subject._NUMBER.findall(text)) >= 3)
    assert ("#marks1" in found) == any(mark in text.lower() for mark in subject._CODE_MARKS)
    symbols = sum(map(text.count, subject._SYMBOLS.decode())) * 100 / (len(text) + 1)
    assert bool({"#symbols8", "#math symbols8"} & found) == (symbols >= 8)
