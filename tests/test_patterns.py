"""Every `re` pattern of the program is listed here, with the texts that are worst for it: its work must be linear.

`re` goes back and tries again, RE2 does not.  A pattern that reads foreign text (of clients, backends, policies, the
environment) stays in `re` only when each place of the text costs a bounded number of steps: because its repetitions
have a limit, or are possessive, or cannot match what follows them, or because it starts at one place only.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from app.cli.checks.backends import key_problem
from app.routing.private.candidate import Candidate
from tests.documents import ROOT
from tests.linear import problem_of

Text = str | bytes
Use = Callable[[Any, Any], Any]


def all_matches(pattern: Any, text: Any) -> None:
    pattern.findall(text)


def first_match(pattern: Any, text: Any) -> None:
    pattern.search(text)


def match(pattern: Any, text: Any) -> None:
    pattern.match(text)


def whole(pattern: Any, text: Any) -> None:
    pattern.fullmatch(text)


def called(method: Any, text: Any) -> None:
    """A bound method, or a function of ours around a pattern."""
    method(text)


@dataclass(frozen=True, slots=True)
class Listed:
    """A pattern: how it is used, what is worst for it, and why it is linear all the same."""

    use: Use
    why: str
    worst: tuple[str, ...]
    raw: bool = False  # it reads bytes


BOUNDED = "its repetitions have a limit"
ONE_PLACE = "it starts at one place only, and no repetition matches what follows it"
POSSESSIVE = "its repetitions are possessive"
CLASS = "it is one class of characters, repeated: what was read is not read again"

PATTERNS = {
    "app/backends/unfit.py _TOKENS": Listed(first_match, BOUNDED, ("you requested 1", "tokens (", "9", "too long: 1")),
    "app/backends/unfit.py _WINDOW": Listed(
        first_match, BOUNDED, ("context length (", "tokens > 1", "9", "model with ")
    ),
    "app/routing/ask.py _QUOTE": Listed(first_match, BOUNDED, ('"', '"a', "'", " 'a")),
    "app/routing/ask.py _BODY": Listed(first_match, BOUNDED, (":", ":/", " -", ": /")),
    "app/routing/ask.py _SENTENCE": Listed(first_match, CLASS, (".", "a.")),
    "app/routing/ask.py _OPTION": Listed(match, BOUNDED, (" ", "(", "a", "option")),
    "app/routing/difficulty.py _OPTION": Listed(all_matches, BOUNDED, ("(", "(A", "A)", " A)")),
    "app/routing/features.py _CALL": Listed(all_matches, BOUNDED, ("a", "_a", "a(s)", "aa(")),
    "app/routing/features.py _NAME": Listed(all_matches, BOUNDED, ("a", "aA", "a_", "aa-")),
    "app/routing/features.py _DOTTED": Listed(first_match, BOUNDED, ("a", "a.", "aa.1")),
    "app/routing/features.py _FILE": Listed(first_match, BOUNDED, ("a.", "a.js", "a.py1", "Dockerfil", "src")),
    "app/routing/features.py _MAYBE_FILE": Listed(first_match, BOUNDED, (".", ".1", "fil", "src")),
    "app/routing/features.py _MIXED": Listed(first_match, BOUNDED, ("a", "A", "A-", "AAa ")),
    "app/routing/features.py _MAYBE_NAME": Listed(first_match, BOUNDED, ("_", "a_", "A", "aA")),
    "app/routing/features.py _MAYBE_DOTTED": Listed(first_match, BOUNDED, (".", ".a", ".a-")),
    "app/routing/features.py _MAYBE_MIXED": Listed(first_match, BOUNDED, ("A", "1", "A1-", "Aa")),
    "app/routing/features.py _MAYBE_OPTION": Listed(first_match, BOUNDED, (")", "A)", ".", "1.")),
    "app/routing/features.py _NUMBER": Listed(all_matches, CLASS, ("1", "1a")),
    "app/routing/features.py _OPTION": Listed(all_matches, BOUNDED, ("(", "(A", "A)", " A)")),
    "app/routing/signatures.py _TITLE": Listed(match, ONE_PLACE, ("[", "[a", "[client ")),
    "app/routing/blocks.py _OPEN": Listed(match, POSSESSIVE, ("<a", "<a b", "<a-b>", " <", "<a ")),
    "app/routing/blocks.py _CLOSE": Listed(first_match, BOUNDED, ("</a", "</a>", "</a> ", "</", "</a>\n")),
    "app/routing/blocks.py _ASK_TAG": Listed(all_matches, BOUNDED, ("<task", "<task ", "<user_query a", "<")),
    "app/routing/purpose.py _SPEAKER_LINE": Listed(all_matches, BOUNDED, ("user\n", "\n#", "user: ", "\nuser: a", ">")),
    "app/routing/purpose.py _OPEN_LINE": Listed(first_match, POSSESSIVE, ("\nai:", "\nai: \n", "\n", "\n ")),
    "app/routing/purpose.py _JSON": Listed(first_match, BOUNDED, ("{", "{ ", "[ ")),
    "app/routing/purpose.py _EXAMPLE": Listed(all_matches, POSSESSIVE, (":", '"a', '"\n', "“", "«a", "„", "„“")),
    "app/routing/purpose.py _PERSONA": Listed(all_matches, BOUNDED, ("chat ", "chat a", "conversation")),
    "app/routing/purpose.py _SENTENCE_END": Listed(all_matches, CLASS, (".", ". ", "a.")),
    "app/routing/purpose.py _WORD_BREAK": Listed(all_matches, CLASS, ("aA", "_", "a_")),
    "app/routing/turns.py _SENTENCE_END": Listed(all_matches, BOUNDED, (".", "a.")),
    "app/routing/turns.py _FULL_STOP": Listed(first_match, BOUNDED, (".", ".a")),
    "app/routing/turns.py _QUESTION": Listed(first_match, BOUNDED, ("?", "?a")),
    "app/routing/turns.py _DEVANAGARI": Listed(first_match, CLASS, ("a", "é")),
    "app/routing/turns.py _KNOWN_THING": Listed(all_matches, BOUNDED, ("the ", "the a", "the a of", "the-")),
    "app/routing/turns.py _TECHNICAL": Listed(first_match, BOUNDED, ("a", "a_", "a.1", "aaA", "aA1", "a(", "a(a", "-")),
    "app/routing/answer/arithmetic.py _EQUATION": Listed(
        all_matches, BOUNDED, ("1 + ", "1+", "1 + 1 = ", "111111111111111", "1.1.1.1", "$1*$1")
    ),
    "app/routing/answer/arithmetic.py _PIECE": Listed(all_matches, POSSESSIVE, ("1", "1.", "1%", "+")),
    "app/routing/answer/arithmetic.py _COMPARISON": Listed(
        all_matches, BOUNDED, ("1 > ", "1.1 < ", "1 is ", "1 is greater than ", "111111111111111.")
    ),
    "app/routing/answer/ask.py _OPTION": Listed(all_matches, BOUNDED, ("A) ", "(A", "A.\t", "\n\n", "A.  ")),
    "app/routing/answer/ask.py QUOTED": Listed(all_matches, BOUNDED, ("'a", '"', "'a' or ", "`a")),
    "app/routing/answer/ask.py _LISTED": Listed(
        all_matches, BOUNDED, ("label ", "one of the following ", "class: ", "either the ")
    ),
    "app/routing/answer/ask.py _ALTERNATIVES": Listed(
        all_matches, BOUNDED, ("a, ", "a b, ", "a/", "a or ", "a b | ", "a ,", "aaaaaaaaaaaa ")
    ),
    "app/routing/answer/ask.py _HOW_MANY": Listed(first_match, BOUNDED, ("how many ", "how many more ", "wie ")),
    "app/routing/answer/ask.py _YES_NO_START": Listed(match, ONE_PLACE, ("is", "est-ce")),
    "app/routing/answer/ask.py _OPTION_WORDS": Listed(first_match, BOUNDED, ("which ", "option", "choos")),
    "app/routing/answer/ask.py _QUOTED_LIST": Listed(first_match, BOUNDED, ("' ", "'or ", "',", "' or ")),
    "app/routing/answer/ask.py _OR_NOT": Listed(all_matches, BOUNDED, ("a", "a or ", "a or not ", "aa-")),
    "app/routing/answer/ask.py _ANY_SEPARATOR": Listed(all_matches, BOUNDED, (" ", ",", " or ", "  ,")),
    "app/routing/answer/ask.py _SEPARATOR": Listed(all_matches, BOUNDED, (" ", ",", " or ", "  ,")),
    "app/routing/answer/code.py _TOKEN": Listed(
        all_matches, POSSESSIVE, ("/*", "/* *", "#", '"', '"\\', "'a", "--", "-- ", "a", "//")
    ),
    "app/routing/answer/final.py _BARE_BACKSLASH": Listed(all_matches, BOUNDED, ("\\", "\\\\", "\\f", "\\frac")),
    "app/routing/answer/final.py _SENTENCE": Listed(all_matches, BOUNDED, (".", ". ", "。", "\n")),
    "app/routing/answer/final.py _BOLD": Listed(all_matches, BOUNDED, ("*", "**", "**a", "**a*")),
    "app/routing/answer/final.py _MEMBER": Listed(
        all_matches, BOUNDED, ('"answer', '"answer" ', '"final_', "'answer': ")
    ),
    "app/routing/answer/final.py _MONTH_NEXT": Listed(match, BOUNDED, (" ", " Jan", "  ")),
    "app/routing/answer/plain.py _MACRO": Listed(all_matches, BOUNDED, ("\\", "\\l", "\\left", "^", "{,", "~")),
    "app/routing/answer/plain.py _WORDS_MACRO": Listed(
        all_matches, BOUNDED, ("\\text{", "\\text{a", "\\text ", "\\math")
    ),
    "app/routing/answer/reading.py _NOTHING": Listed(whole, POSSESSIVE, (" ", "<|a|>", "<s>", "<|a")),
    "app/routing/answer/plain.py _FRACTION": Listed(
        all_matches, BOUNDED, ("\\frac{", "\\frac{a}", "\\frac{a}{b", "\\frac ")
    ),
    "app/routing/answer/plain.py _SHORT_FRACTION": Listed(all_matches, BOUNDED, ("\\frac1", "\\frac ", "\\frac")),
    "app/routing/answer/plain.py _ROOT": Listed(all_matches, BOUNDED, ("\\sqrt{", "\\sqrt{a", "\\sqrt ")),
    "app/routing/answer/plain.py _POWER": Listed(all_matches, BOUNDED, ("^", "^{", "^ {a", "^{a")),
    "app/routing/answer/plain.py _NUMBER_IN_BRACKETS": Listed(all_matches, BOUNDED, ("(1", "(1.", "(1.1", "(")),
    "app/routing/answer/plain.py _RAISED_RUN": Listed(all_matches, BOUNDED, ("²", "⁻²")),
    "app/routing/answer/plain.py _TOKEN": Listed(
        all_matches, POSSESSIVE, ("1.", "1,1", "1 111", "1e", "1e+", "a'", "a'a", "_", "1e1a")
    ),
    "app/routing/answer/loops.py _MARKER": Listed(all_matches, BOUNDED, (" ", "- ", "-\t", "\n", "a) ", "1.")),
    "app/routing/answer/loops.py _CODE": Listed(first_match, CLASS, (" ", "a")),
    "app/routing/answer/loops.py _WORD": Listed(all_matches, CLASS, ("a", "a1", "é")),
    "app/routing/answer/loops.py _DENSE": Listed(all_matches, CLASS, ("あ", "a")),
    "app/routing/answer/loops.py _NUMBER": Listed(all_matches, BOUNDED, ("1", "a", "ten-", "10 times ", "1 ×")),
    "app/routing/answer/loops.py _PRODUCT": Listed(all_matches, BOUNDED, ("1 x ", "1 by ", "1111")),
    "app/routing/answer/phrases.py _HAS_WORD_BORDERS": Listed(match, CLASS, ("a", "あ")),
    "app/routing/answer/phrases.py _SEPARATORS": Listed(all_matches, CLASS, (" ", "'", "a'", "’ ")),
    "app/routing/answer/refusal.py _SENTENCE": Listed(all_matches, CLASS, (".", "a.", "a", "\n")),
    "app/routing/answer/refusal.py _MARKUP": Listed(all_matches, CLASS, ("*", "a*", "#")),
    "app/routing/answer/refusal.py _OTHER_TEXT": Listed(match, ONE_PLACE, ("a", "a a", "dear", "dear ")),
    "app/routing/answer/refusal.py _SPEAKER": Listed(match, ONE_PLACE, ("ai", "ai: ")),
    "app/routing/answer/refusal.py _QUOTED": Listed(
        all_matches, "a quotation without an end goes to the end of its line", ('"', '"a', "“", "«a", "„a“")
    ),
    "app/routing/answer/refusal.py _GREETING": Listed(match, ONE_PLACE, ("hi ", "hi a, ")),
    "app/routing/answer/refusal.py _CONTENT": Listed(
        first_match, "each repetition ends with its line", (" ", "\n", "\n ", "1", "\n1", "|a", "||", "|\n")
    ),
    "app/routing/answer/schema.py _IS_TIME": Listed(whole, BOUNDED, ("1", "10:00:00.", "10:00:00+")),
    "app/routing/answer/schema.py _IS_DATE_TIME": Listed(whole, BOUNDED, ("1", "2024-01-01T", "2024-01-01T10:00:00.")),
    "app/routing/answer/schema.py _IS_URI": Listed(whole, ONE_PLACE, ("a", "a:", "a: ")),
    "app/routing/answer/structure.py _FENCE": Listed(all_matches, ONE_PLACE, (" ", "\n", "\n ", "``")),
    "app/routing/answer/structure.py _ONLY_FENCE": Listed(
        lambda pattern, text: pattern.fullmatch("```" + text), POSSESSIVE, (" ", "```", "``` ", "a", "~~~\n", "\n")
    ),
    "app/routing/answer/structure.py _SENTENCE_END": Listed(all_matches, BOUNDED, (".", ". ", '."', ".)")),
    "app/routing/answer/structure.py _IS_ITEM": Listed(match, ONE_PLACE, (" ", "1", "-", " 1")),
    "app/routing/answer/wanted.py _SENTENCE": Listed(all_matches, CLASS, ("a", "a.", ".")),
    "app/routing/answer/wanted.py _JSON_ONLY": Listed(first_match, BOUNDED, ("只", "只a", "json", "jsonの")),
    "app/routing/answer/normal.py _WORD": Listed(all_matches, POSSESSIVE, ("1.", "1,1", "a'", "a'a")),
    "app/routing/answer/normal.py _INITIAL": Listed(all_matches, BOUNDED, (" A", ' "', " ((")),
    "app/routing/answer/value.py _LETTER": Listed(
        all_matches, BOUNDED, ("(A", "A ", "option ", "option A", "[(", " A and", "A  ")
    ),
    "app/routing/answer/value.py _BRACKETED": Listed(all_matches, BOUNDED, ("(A", "( A", "option ", "option (A")),
    "app/routing/answer/value.py _SMALL_LETTER": Listed(match, ONE_PLACE, ("a", " a", "((a")),
    "app/routing/basis.py _NAME": Listed(whole, BOUNDED, ("a", "a.", "a/")),
    "app/routing/detect.py _COUNT": Listed(all_matches, ONE_PLACE, ("{", "{1", "{1,", "{1,2")),
    "app/routing/private/texts.py _MEDIA": Listed(match, BOUNDED, ("data:image/a", "a", "a;", ";")),
    "app/routing/private/texts.py _FILE": Listed(match, BOUNDED, ("data:", "a", ";base64")),
    "app/routing/private/texts.py _ESCAPED": Listed(all_matches, POSSESSIVE, ("\\", "\\u", "\\\\u00", "\\u00z")),
    "app/routing/private/texts.py _ESCAPED_CHAR": Listed(all_matches, BOUNDED, ("\\", "\\n", "n")),
    "app/routing/private/texts.py _PERCENT": Listed(all_matches, BOUNDED, ("%", "%2", "%20")),
    "app/routing/private/texts.py _ENTITY": Listed(all_matches, BOUNDED, ("&", "&#", "&#1", "&#x1", "&amp")),
    "app/routing/lexicon.py _TOKEN": Listed(
        all_matches,
        "its repetitions begin with a sign that the words between them do not hold",
        ("a", "a.", "a..", "+"),
    ),
    "app/routing/lexicon.py _WIDE": Listed(first_match, CLASS, ("a", "é")),
    "app/backends/pool.py _is_plain": Listed(lambda fullmatch, text: fullmatch(text), CLASS, ("/v1", "é")),
    "app/web/headers.py _SLASHES": Listed(all_matches, CLASS, ("/", "/a", "//")),
    "app/web/headers.py _LIKE_OURS": Listed(first_match, "no match begins inside a word", ("X", "XL", "_X", "XLL_")),
    "app/fields/__init__.py _DURATION": Listed(whole, BOUNDED, ("1", "1m")),
    "app/backends/ollama.py _VERSION": Listed(match, BOUNDED, ("1", "1.", ".")),
    "app/fields/__init__.py _ENV_NAME": Listed(whole, BOUNDED, ("A", "_")),
    "app/cli/options.py convert": Listed(lambda _, text: re.fullmatch(r"(\d{1,6})([mhd])", text), BOUNDED, ("1", "1m")),
    "app/cli/checks/backends.py key_problem": Listed(
        lambda _, text: key_problem(text), ONE_PLACE, ("authorization: ", " ", "bearer", "Authorization:\n")
    ),
    "app/cli/inspection.py _OPEN_FILES": Listed(first_match, ONE_PLACE, ("Max open files ", "Max open files\n", "\n")),
    "app/cli/table.py _NUMBER": Listed(whole, ONE_PLACE, ("1", ".", "1e-", "-")),
    "app/cli/table.py _BREAK": Listed(all_matches, BOUNDED, ("/", "a/", "a-", "=")),
    "app/storage/mounts.py _NETWORK_FUSE": Listed(whole, BOUNDED, ("fuse.", "fuse.blobfuse")),
    "app/storage/mounts.py _OCTAL": Listed(all_matches, BOUNDED, ("\\", "\\00", "0")),
    "app/wire/chat/stream.py _LAST_DONE": Listed(
        all_matches,
        "what repeats goes to the end, where nothing must follow",
        ("data: [DONE]\n", "\n", "data: "),
        raw=True,
    ),
    "app/backends/openai.py _REASONING": Listed(match, ONE_PLACE, ("/", ":o", "o1", "gpt-")),
    "app/backends/ollama_facts.py _DIGEST": Listed(whole, BOUNDED, ("a", "sha256:", "sha256-a")),
    "app/backends/ollama_facts.py _FILE": Listed(
        all_matches, ONE_PLACE, ("FROM ", "FROM\n", "FROM \n", " ", "\n", "FROM x")
    ),
    "app/backends/ollama_facts.py _OPTION": Listed(all_matches, ONE_PLACE, ("num_ctx ", "num_ctx\n", " ", "\n", "1")),
    "app/wire/responses/tools.py _ILLEGAL": Listed(all_matches, CLASS, (".", "a")),
    "app/wire/responses/custom.py _SPACE": Listed(all_matches, CLASS, (" ", " a")),
    "app/wire/responses/custom.py _HEAD_PATTERN": Listed(match, ONE_PLACE, (" ", " {", "{")),
    "app/wire/responses/custom.py _CERTAIN": Listed(match, POSSESSIVE, ("a", "\\ud800", "\\n", "\\ud800\\", "\\u00")),
    "app/wire/responses/custom.py _OPEN": Listed(match, BOUNDED, ("\\", "\\ud800\\u")),
    "app/wire/tool_calls.py _PLACEHOLDER": Listed(whole, ONE_PLACE, (" ", "{", " {", "{ ")),
    "app/wire/tool_calls.py _PLACEHOLDER_IN_FRONT": Listed(match, ONE_PLACE, (" ", "{}", "{ ", "} ")),
    "app/wire/chat/repair.py _CALLS": Listed(first_match, POSSESSIVE, ('"tool_calls"', '"tool_calls":', " "), raw=True),
    "app/wire/chat/repair.py _ARGUMENTS": Listed(
        first_match,
        POSSESSIVE,
        ('"tool_calls":[{"index":', '"tool_calls" ', "\\", '"tool_calls":[{"index":0,"function":{"arguments":"a'),
        raw=True,
    ),
    "app/wire/json_end.py _OUTSIDE": Listed(first_match, CLASS, ("a", "{")),
    "app/wire/json_end.py _IN_STRING": Listed(first_match, CLASS, ("a", "\\")),
    "app/wire/json_body.py _TOKEN": Listed(all_matches, POSSESSIVE, ('"', '"a', "\\", '"\\', "[", "a"), raw=True),
    "app/wire/json_body.py _skip_space": Listed(called, CLASS, (" ", "\n")),
    "app/wire/json_body.py _first_plain_member": Listed(called, ONE_PLACE, (" ", "{", '{"', '{"a', '{"a" ', "{ ")),
    "app/wire/json_body.py _next_plain_member": Listed(called, ONE_PLACE, (" ", ",", ',"', ',"a', ',"a" ', ", ")),
    "app/wire/json_body.py _first_comma": Listed(first_match, ONE_PLACE, (" ", "{", " {", "{ ")),
    "app/wire/json_cut.py _NAME": Listed(match, POSSESSIVE, (" ", "{", '{"', '{"a', '{"a" ', '{"\\', "{ ")),
    "app/wire/json_cut.py _ELEMENT": Listed(match, POSSESSIVE, (" ", "[", ",", "[ ")),
    "app/wire/json_cut.py _EMPTY": Listed(match, POSSESSIVE, (" ", "{", "{ ")),
    "app/wire/logprobs.py _DATA": Listed(
        all_matches, POSSESSIVE, ("data: ", "data: a", "\n", "\r", "\xef\xbb\xbf"), raw=True
    ),
    "app/wire/logprobs.py _LINE_END": Listed(all_matches, BOUNDED, ("\n", "a"), raw=True),
    "app/backends/logprobs.py _NAMED": Listed(first_match, BOUNDED, ("log", "log-", "logpro", "a")),
    "app/wire/messages/from_chat.py _ILLEGAL_IN_ID": Listed(all_matches, CLASS, (":", "a:", "é")),
    "app/wire/sse.py EVENT_END": Listed(all_matches, BOUNDED, ("\n", "\r", "\n\r", "a"), raw=True),
    "app/wire/sse.py _LINE_END": Listed(all_matches, BOUNDED, ("\n", "\r", "a"), raw=True),
    "app/wire/chat/stream.py _MEMBER": Listed(
        all_matches, POSSESSIVE, ('"content"', '"content":"', '"content" ', "\\", '"text":"\\'), raw=True
    ),
    "app/wire/chat/stream.py _ESCAPE": Listed(all_matches, BOUNDED, ("\\", "\\u", "\\u00"), raw=True),
}
# Checks of a candidate read the candidate and what stands around it: a few hundred bytes, whatever the text.
WINDOWED = {
    f"app/routing/private/{name}.py"
    for name in ("candidate", "contacts", "national_ids", "numbers", "randomness", "secrets")
}
FOR_ALL = ("a", "1", " ", '"', "\\", "-_", "aA1 ")
SIZES = 2_000, 512_000


def patterns() -> Iterator[str]:
    """Yield where `re` reads texts of any length: a file, and the variable or the function around it."""
    for file in sorted((ROOT / "app").rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        if name not in WINDOWED:
            yield from patterns_in(name, ast.parse(file.read_text("utf-8")))


def patterns_in(name: str, tree: ast.Module) -> Iterator[str]:
    def visit(node: ast.AST, owner: str) -> Iterator[str]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            owner = node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and not owner:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            owner = ast.unparse(target)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "re":
            if not node.attr.isupper() and node.attr not in ("Pattern", "Match", "escape", "error"):
                yield f"{name} {owner}"
        elif isinstance(node, ast.ImportFrom) and node.module in ("re", "regex"):
            yield f"{name} from {node.module} import"
        elif isinstance(node, ast.Import):
            yield from (f"{name} import {entry.name}" for entry in node.names if entry.asname or entry.name == "regex")
        for child in ast.iter_child_nodes(node):
            yield from visit(child, owner)

    for node in tree.body:
        yield from visit(node, "")


def test_every_pattern_is_listed() -> None:
    found = set(patterns())
    assert found - PATTERNS.keys() == set(), "list it above with what is worst for it, or let RE2 do it"
    assert PATTERNS.keys() - found == set(), "these are gone"


def test_checks_of_a_candidate_read_a_window_of_the_text() -> None:
    raw = b"x" * 100_000
    found = Candidate(raw, ((20_000, 80_000), (30_000, 70_000)))
    texts = (found.text, *found.parts, found.before, found.after, *found.neighbours)
    assert max(map(len, texts)) <= 400
    for name in WINDOWED - {"app/routing/private/candidate.py"}:
        assert ".raw[" not in (ROOT / name).read_text("utf-8"), "it may read the whole text"


@pytest.mark.parametrize(
    "planted",
    [
        "import re\n_NEW = re.compile('(a+)+b')",
        "import re\ndef f(text):\n    return re.sub('a*b', '', text)",
        "import re\nclass A:\n    def f(self):\n        return [re.search('a', x) for x in self.all]",
        "from re import compile",
        "import re as regular",
        "import regex",
    ],
)
def test_a_planted_pattern_is_found(planted: str) -> None:
    assert set(patterns_in("app/new.py", ast.parse(planted))) - PATTERNS.keys()


@pytest.mark.parametrize("name", [name for name, listed in PATTERNS.items() if listed.worst])
def test_a_pattern_is_linear_in_its_worst_text(name: str) -> None:
    listed = PATTERNS[name]
    file, _, variable = name.partition(" ")
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    pattern = getattr(module, variable, None)
    for unit in dict.fromkeys((*listed.worst, *FOR_ALL)):
        for end in ("", "!"):

            def make(size: int, unit: str = unit, end: str = end) -> Callable[[], Any]:
                text: Any = unit * (size // len(unit)) + end
                text = text.encode() if listed.raw else text
                return lambda: listed.use(pattern, text)

            assert not (problem := problem_of(make, *SIZES)), (unit, end, problem)


@pytest.mark.parametrize(("pattern", "unit"), [(r"\beyJ[\w-]{8,}\.[\w.-]+", "eyJaaaaaaaa-"), ("a*b", "a")])
def test_a_quadratic_pattern_is_caught(pattern: str, unit: str) -> None:
    compiled = re.compile(pattern)

    def make(size: int) -> Callable[[], Any]:
        text = unit * (size // len(unit)) + "!"
        return lambda: compiled.search(text)

    assert problem_of(make, *SIZES)
