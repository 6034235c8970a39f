"""The tags of a conversation: whole conversations of our own, held to rates, and a table of single rules."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.routing import conversation
from app.routing.classify import evidence, judge
from app.routing.conversation import origin_step
from app.types import COMPLEXITIES, ConversationRules, Cuts, JsonDict, Judgement
from tests import build

CONVERSATIONS: dict[str, list[dict[str, str]]] = yaml.safe_load(
    (Path(__file__).parent / "conversations.yaml").read_text(encoding="utf-8")
)
CODE = "Write a Python function that merges two sorted lists."
ASIDE = "by the way, what is the weather in Rome tomorrow?"
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
HARD = (
    "Now derive a lock-free version, prove that it is linearizable under asynchrony, give a rigorous proof of its "
    "progress guarantees, and analyse the asymptotic complexity against the consensus hierarchy."
)


def judged(*turns: str, rules: ConversationRules = ConversationRules(), **fields: Any) -> Judgement:  # noqa: B008
    """Judge a conversation of the user's turns, each but the last one answered.  IMAGE before a turn adds an image."""
    return judge(build.request({"messages": messages(*turns), **fields}), Cuts(), rules)


def messages(*turns: str) -> list[JsonDict]:
    found: list[JsonDict] = []
    for turn in turns:
        text = turn.removeprefix("IMAGE ")
        parts = [{"type": "text", "text": text}, IMAGE] if text != turn else text
        found += [{"role": "user", "content": parts}, {"role": "assistant", "content": "Done."}]
    return found[:-1]


def rates() -> dict[str, float]:
    right, of = Counter[str](), Counter[str]()

    def count(name: str, is_right: bool) -> None:
        of[name] += 1
        right[name] += is_right

    for rows in CONVERSATIONS.values():
        turns: list[str] = []
        before = last = ("", "")
        for row in rows:
            ((want, text),) = row.items()
            turns.append(text)
            tags = judged(*turns).tags
            now = tags.task, tags.complexity
            if want in ("same", "short", "back"):
                count("stays", now[0] == (before if want == "back" else last)[0])
            if want == "short":
                count("complexity kept", COMPLEXITIES.index(now[1]) >= COMPLEXITIES.index(last[1]))
            if want == "high":
                count("rises", now == (last[0], "high"))
            if want not in ("same", "short", "back", "high", "aside", "free") and len(turns) > 1:
                count("changes", now[0] == want)
            before, last = before if want == "aside" else now, now
    assert of["stays"] > 100 and of["changes"] > 20 and of["complexity kept"] > 60
    return {name: right[name] / of[name] for name in of}


def test_conversations_stay_and_change_as_people_expect() -> None:
    found = rates()
    assert found["stays"] >= 0.96
    assert found["changes"] >= 0.92
    assert found["complexity kept"] >= 0.96
    assert found["rises"] == 1


@pytest.mark.parametrize(
    ("turns", "task", "reading"),
    [
        ([CODE], "code", "first"),
        ([CODE, "go on"], "code", "short"),
        ([CODE, "yes", "shorter", "ok", "and now?"], "code", "short"),
        ([CODE, "It should also handle empty lists."], "code", "same"),
        ([CODE, "Different question, what can I cook with leeks and rice?"], "general", "new"),
        ([CODE, ASIDE], "web_search", "new"),
        (
            [CODE, ASIDE, "Rename the function in the code to merge."],
            "code",
            "back",
        ),
        ([CODE, ASIDE, "and on sunday?"], "web_search", "short"),
        (["What do sparrows eat?", "IMAGE Is this one a sparrow?"], "vision", "image"),
        (["What do sparrows eat?", "IMAGE Is this one a sparrow?", "male?"], "vision", "short"),
        (["IMAGE Is this a sparrow?", "Next task: write a SQL query that counts orders per day."], "code", "new"),
    ],
)
def test_a_turn_is_read(turns: list[str], task: str, reading: str) -> None:
    judgement = judged(*turns)
    assert (judgement.tags.task, judgement.origin.reading) == (task, reading)


def test_difficulty_rises_at_once_and_falls_by_one_step_after_three_easier_turns() -> None:
    easier = (
        "Add a comment to the first line please.",
        "Rename the second list to other.",
        "Print both lists at the end.",
    )
    assert judged(CODE).tags.complexity != "high"
    turns = [CODE, HARD]
    seen = [judged(*turns).tags.complexity]
    for turn in (*easier, *easier):
        turns.append(turn)
        seen.append(judged(*turns).tags.complexity)
    assert seen == ["high", "high", "high", "medium", "medium", "medium", "low"]
    held = judged(*turns, rules=ConversationRules(hold="task"))
    assert held.tags.complexity == "high" and held.origin.difficulty_turn == 2
    assert judged(*turns, "ok").tags.complexity == "low", "a short turn keeps what stands"


def test_a_new_task_begins_with_its_own_difficulty() -> None:
    assert judged(CODE, HARD, "Something else: tell me a joke about cows.").tags.complexity == "low"


def test_each_turn_is_judged_alone_when_conversations_are_not_sticky() -> None:
    rules = ConversationRules(sticky=False)
    alone, together = judged("why?").tags, judged(CODE, "why?", rules=rules).tags
    assert (together.task, together.difficulty) == (alone.task, alone.difficulty)


def test_results_of_tools_are_no_turns() -> None:
    loop = [
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "run", "arguments": "{}"}}]},
        {"role": "tool", "content": "Write a poem about the weather today."},
    ]
    judgement = judge(build.request({"messages": [*messages(CODE), *loop, *loop]}))
    assert (judgement.tags.task, judgement.origin.turns) == ("code", 1)
    assert judgement.tags.difficulty == judged(CODE).tags.difficulty


def test_the_trace_and_the_evidence_name_the_turn() -> None:
    turns = (CODE, "It should also handle empty lists.", "thanks")
    step = origin_step(judged(*turns))
    assert (step.stage, step.outcome) == ("tags", "code stands since turn 1: turn 3 is short and continues it")
    found = evidence(build.request({"messages": messages(*turns)}))
    assert (found.origin.turn, found.origin.turns) == (1, 3)
    assert found.alone[0] == "general"
    assert found.tags == judged(*turns).tags


@pytest.mark.parametrize(
    ("turns", "task"),
    [
        # A subject that follows for good is no aside, whatever is asked about it.
        ([CODE, "Now something else entirely. Where should I spend a long weekend?", "Is there a museum?"], "general"),
        (["What is rye?", "New topic: how do I undo a git commit?", "Does that work for a merge too?"], "code"),
        # An aside ends with a turn that names what stood before, goes back to it, or acknowledges the answer.
        ([CODE, "btw do penguins have knees?", "OK, back to my lists. It must be stable."], "code"),
        ([CODE, "btw do penguins have knees?", "Nice. The second list may be empty."], "code"),
        ([CODE, "btw do penguins have knees?", "And do penguins have ears too?"], "general"),
        ([CODE, "btw do penguins have knees?", "sure?", "Back to the merge then."], "code"),
        ([CODE, "Something else: write a poem on fog.", "longer", "Can we go back to the first version?"], "general"),
        # A sentence that ends a subject, and the subject that follows it, are judged apart.
        ([CODE, "Enough lists. Tell me a story about a lighthouse that moves."], "general"),
        ([CODE, "That's not fast enough. Can you use a heap?"], "code"),
        # What goes on with a subject does not ask for another one.
        ([CODE, "But I thought a list is sorted anyway?"], "code"),
        ([CODE, "When would I call heapq.merge then?"], "code"),
        ([CODE, "What are good hiking trails for beginners in the Black Forest?"], "general"),
    ],
)
def test_what_a_turn_goes_on_with(turns: list[str], task: str) -> None:
    assert judged(*turns).tags.task == task


def test_statements_do_not_make_a_conversation_easier() -> None:
    statements = ("The lists are short.", "I read them from a file.", "They hold names.", "My laptop is old.")
    assert judged(CODE, HARD, *statements).tags.complexity == "high"


def test_a_long_conversation_is_folded_from_its_latest_state(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = [turn for rows in CONVERSATIONS.values() for row in rows for turn in row.values()][:60]
    monkeypatch.setattr(conversation, "_LONG", 1_000)
    folded = [judged(*turns[:number]) for number in range(1, len(turns))]
    monkeypatch.setattr(conversation, "_LONG", 8)
    work: list[int] = []
    after = conversation._after
    monkeypatch.setattr(conversation, "_after", lambda *args, **rules: work.append(args[1]) or after(*args, **rules))
    assert [judged(*turns[:number]) for number in range(1, len(turns))] == folded
    assert work[-3:] == [57, 58, 59], "one turn for each request"
    assert judged(*turns[:58], rules=ConversationRules(hold="task")).origin.turns == 58
    assert len(work) > 59 + 50, "other rules have states of their own"
    assert judged("Another beginning.", *turns[1:59]) != folded[-1], "so have other turns"


def test_a_conversation_of_200_turns_is_read_as_one_of_2() -> None:
    """No work grows with the square of the turns, and each text is judged once."""
    turns = [CODE, *(f"Change line {number} so that it handles case {number} too." for number in range(200))]
    assert judged(*turns).tags.task == "code"
    assert judged(*turns).origin.turns == 201
