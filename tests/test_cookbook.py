"""docs/cookbook.md: every policy is fit to serve, keeps what is said of it, and sends prompts where its table says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from app import policy
from app.beliefs.local import LocalBackends
from app.errors import ContextTooLong, UnknownModel
from app.pipeline import detect
from app.routing.classify import classify
from app.routing.decide import decide
from app.routing.detect import Detectors
from app.routing.locality import is_local
from app.settings import Settings
from app.types import Decision, Observations, Policy
from tests import build
from tests.documents import Document, names

PAGE = Document.read("docs/cookbook.md")
PROMPTS = yaml.safe_load((Path(__file__).parent / "cookbook_prompts.yaml").read_text("utf-8"))
SECTIONS = {
    text.partition("\n")[0]: Document(PAGE.path, text) for text in PAGE.text.split("\n## ")[1:] if "```yaml" in text
}
ROWS = [(title, *row) for title, section in SECTIONS.items() for row in section.rows("request", "goes to")]
IMAGE = [
    {"type": "text", "text": "What is in this picture?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
]
OURS = "Code local, prose in the cloud"


def loaded(title: str) -> policy.Loaded:
    (block,) = SECTIONS[title].blocks("yaml")
    return policy.load(block.text, "cookbook.md", Settings(), lambda _: ["127.0.0.1"])


@cache
def served(title: str) -> tuple[Policy, Detectors, Observations]:
    rules = loaded(title).policy
    locality = LocalBackends(rules.backends)
    locality.refresh(lambda _: ["127.0.0.1"])
    return rules, Detectors(rules.sensitivity), Observations(local=locality.names)


def decided(title: str, body: dict[str, Any] | str, model: str = "auto", sensitivity: str = "normal") -> Decision:
    """What the policy of a section makes of a request: a prompt, or a whole chat body.  Raises RouterError."""
    rules, detectors, seen = served(title)
    request = detect(build.request(body, model=model, sensitivity=sensitivity), detectors)
    return decide(request, classify(request, rules.complexity), rules, seen)


def leaves(title: str, decision: Decision) -> list[str]:
    """The targets that are not local, fallbacks among them."""
    seen = served(title)[2]
    return [target.backend for target in decision.targets if not is_local(target, seen)]


def test_there_are_thirteen_and_each_is_listed_on_top() -> None:
    assert len(SECTIONS) == 13
    head = PAGE.text.partition("\n## ")[0]
    assert re.findall(r"\[([^\]]+)\]\(#", head) == list(SECTIONS)


@pytest.mark.parametrize("title", SECTIONS)
def test_it_is_fit_to_serve(title: str) -> None:
    assert loaded(title).warnings == ()
    assert SECTIONS[title].rows("request", "goes to")


@pytest.mark.parametrize("title, asked, goes_to", ROWS)
def test_a_prompt_goes_where_the_table_says(title: str, asked: str, goes_to: str) -> None:
    text, _, rest = asked.rpartition('"') if asked.startswith('"') else asked.partition(",")
    model = names(rest)[0] if "model" in rest else "auto"
    sensitivity = "high" if "private" in rest else "normal"
    body = {"messages": [{"role": "user", "content": _content(text)}]}
    if goes_to.startswith("404"):
        with pytest.raises(UnknownModel, match=re.escape(goes_to.removeprefix("404: "))):
            decided(title, body, model, sensitivity)
        return
    decision = decided(title, body, model, sensitivity)
    first = decision.targets[0]
    assert f"{first.backend} `{first.model}`" == goes_to, decision.trace
    if sensitivity == "high" or "4111" in asked:
        assert decision.private and not leaves(title, decision)


def _content(text: str) -> Any:
    if text.startswith('"'):
        return text[1:]
    return IMAGE if text == "an image" else "word " * int(text.split()[0])


# --- what is said above the policies --------------------------------------------------------------


def pins(title: str) -> Iterator[str]:
    """What a client could send as its `model`: every name of the policy, in odd spellings, and names of its own."""
    yield from ("auto", "AUTO", "gpt-4o", "gpt-4o-mini", "gpt-4", "claude-sonnet-4-5", "local/", "nobody", "x" * 300)
    for config in served(title)[0].backends.values():
        for name in (config.name, *config.models, *config.families.values()):
            yield from (name, name.upper(), name.title(), name[:-1], name[0] + name, f"{config.name}/{name}")
        yield from (f"{config.name}/gpt-9", f"{config.name[:-1]}/gpt-9")
        if config.type == "ollama":
            yield f"{config.name}/qwen3-coder:480b-cloud"


def answers(title: str, body: dict[str, Any] | str, **sent: str) -> Iterator[tuple[str, Decision]]:
    """The decisions on a prompt by the `model` that is sent with it; those that are refused are left out."""
    for model in pins(title):
        try:
            yield model, decided(title, body, model, **sent)
        except (UnknownModel, ContextTooLong):
            continue


@pytest.mark.parametrize("title", SECTIONS)
def test_a_private_request_stays_whatever_it_names(title: str) -> None:
    found = [(model, leaves(title, decision)) for model, decision in answers(title, "hello", sensitivity="high")]
    assert len(found) > 10 and not any(left for _, left in found), found


@pytest.mark.parametrize("title", SECTIONS)
@pytest.mark.parametrize("model", ["gpt-4o", "GPT-4o-mini", "gpt-4", "claude-sonnet-4-5"])
def test_a_name_that_clients_have_built_in_goes_past_no_route(title: str, model: str) -> None:
    for prompt in (*PROMPTS["code"][:5], *PROMPTS["prose"][:5]):
        assert decided(title, prompt, model).targets == decided(title, prompt).targets


@pytest.mark.parametrize("title", [OURS, "Privacy first", "Air-gapped", "Laptop only", "Two GPUs"])
def test_where_names_are_to_send_nothing_out_none_does(title: str) -> None:
    """Nothing that the routes keep at home leaves because of a name."""
    for prompt in (*PROMPTS["code"], *PROMPTS["prose"], *PROMPTS["personal"]):
        at_home = not leaves(title, decided(title, prompt))
        for model, decision in answers(title, prompt):
            assert not (at_home and leaves(title, decision)), (prompt, model)


@pytest.mark.parametrize("model", ["auto", "coder", "Coder", "coder/qwen2.5-coder-14b", "writer", "gpt-4o", "gpt-4"])
def test_the_code_base_stays_here(model: str) -> None:
    """Asks about code, with and without code in them, alone and behind code, with and without an agent's tools."""
    code = [{"role": "user", "content": PROMPTS["snippets"][0]}, {"role": "assistant", "content": "Looks fine."}]
    tool = {"type": "function", "function": {"name": "apply_patch", "parameters": {"type": "object"}}}
    agent = {
        "role": "system",
        "content": "You are a coding agent. Change files with apply_patch, run tests in a shell.",
    }
    for prompt in (*PROMPTS["code"], *PROMPTS["snippets"]):
        alone = [{"role": "user", "content": prompt}]
        for messages in (alone, code + alone, [agent, *alone]):
            for tools in ({}, {"tools": [tool]}):
                decision = decided(OURS, {"messages": messages, **tools}, model)
                assert not leaves(OURS, decision), (prompt, messages, decision.trace)
    for prompt in PROMPTS["prose"]:
        assert not leaves(OURS, decided(OURS, {"messages": [*code, {"role": "user", "content": prompt}]}, model)), (
            prompt
        )


@pytest.mark.parametrize("model", ["codr", "Codre", "codder", "cdoer", "coder/", "writr", "codr/qwen2.5-coder-14b"])
def test_a_misspelt_pin_sends_no_code_anywhere(model: str) -> None:
    for prompt in (*PROMPTS["code"], *PROMPTS["snippets"]):
        try:
            decision = decided(OURS, prompt, model)
        except UnknownModel:
            continue
        assert not leaves(OURS, decision)


def test_prose_may_go_out() -> None:
    went = [prompt for prompt in PROMPTS["prose"] if decided(OURS, prompt).targets[0].backend == "writer"]
    assert len(went) > len(PROMPTS["prose"]) / 2


def test_only_harmless_questions_leave_what_is_private_first() -> None:
    title = "Privacy first"
    for prompt in (*PROMPTS["personal"], *PROMPTS["prose"], *PROMPTS["code"], *PROMPTS["snippets"]):
        for model, decision in answers(title, prompt):
            assert not leaves(title, decision), (prompt, model)
    went = [prompt for prompt in PROMPTS["news"] if leaves(title, decided(title, prompt))]
    assert len(went) > len(PROMPTS["news"]) / 2


def test_behind_an_air_gap_nothing_is_hosted() -> None:
    assert all(config.local for config in served("Air-gapped")[0].backends.values())


def test_easy_questions_cost_nothing_and_only_code_reaches_the_strong_one() -> None:
    title = "Cost first"
    for prompt in PROMPTS["easy"]:
        assert decided(title, prompt).targets[0].backend == "local", prompt
    for prompt in (*PROMPTS["prose"], *PROMPTS["news"], *PROMPTS["personal"], *PROMPTS["easy"]):
        assert "strong" not in [target.backend for target in decided(title, prompt).targets], prompt


def test_of_what_is_judged_only_doubted_answers_are_paid_for() -> None:
    """Private requests and prompts of programs are not held, and very hard requests go up at once."""
    title = "Pay for one answer in five"
    for prompt in (*PROMPTS["easy"], *PROMPTS["prose"], *PROMPTS["code"][:20]):
        decision = decided(title, prompt)
        plan = decision.verification
        if decision.targets[0].backend == "frontier":
            assert plan is None, prompt
            continue
        assert plan and plan.holds and plan.second, prompt
        assert (plan.second.backend, [target.backend for target in plan.escalation]) == ("peer", ["frontier"])
        private = decided(title, prompt, sensitivity="high")
        assert private.verification is None or not private.verification.holds
    title_prompt = "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.\n"
    assert decided(title, title_prompt).verification is None
