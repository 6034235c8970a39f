"""Text -> the names of the features that speak about its task.  Training and the running router share this code.

Askers say what they want in their first or their last words, so only those are read, not the document between them.
A name tells what was seen, and where: `tech` a list of the lexicon anywhere, `tech*` more than one entry of it,
`<tech` in the opening words, `tech>` in the closing ones, `event+now` two lists together, `=word` and `=two words`
the words themselves (`=word>` in the closing ones), `#fence` the shape of the text.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from itertools import combinations, pairwise
from pathlib import Path

from app.routing.lexicon import Lexicon, is_wide, tokens

HEAD_CHARS = 220
TAIL_CHARS = 140
LONG_CHARS = 300  # above it, a short first or last line stands for the head or the tail
MIN_LINE_CHARS = 10  # `Article:` says nothing
OPENING_WORDS = 3
SHAPE_CHARS = 1_500

LEXICON = Lexicon(Path(__file__).with_name("lexicon_task.txt"))

_CALL = re.compile(r"[A-Za-z_]\w{1,30}\((?!s\)|es\)|ies\))")  # `print(`, not `shoe(s)`
_NAME = re.compile(r"\b[a-z]{1,30}(?:_[a-z]{1,30}|[A-Z][a-z]{1,30})")  # snake_case, camelCase
_DOTTED = re.compile(r"[a-z]\w{0,30}\.[a-z]\w")  # foo.bar
_MIXED = re.compile(r"\b(?:[a-zA-Z]{1,20}\d|[A-Z]{3,20}\b)")  # utf8, DSA
_NUMBER = re.compile(r"\d+")
_OPTION = re.compile(r"(?:^|[\s(])[A-Ea-e1-5][).]\s")  # A) … B) …
_CODE_MARKS = (
    "();", "=>", "==", "!=", "def ", "import {", "import java", "\nimport ", "print(", "</", "#include", "select * ",
    "::", "&&", "||", "self.", "console.log", "function(", "public ", "{\n", "};", "->", "+=", "sudo ", "/>", "<?",
    "$(", "[0]", "[i]", "\n    ", "return ", ".py", ".js", "['", "http://localhost", "`",
)  # fmt: skip
_SYMBOLS = "{}();=<>[]_"
_MATH_MARKS = ("$", "^", "\\frac", "\\sum")
SIZES = (20, 40, 80, 160, 320, 640, 1280, 2560)


def features(text: str) -> list[str]:
    """What speaks in `text`; no name comes twice."""
    head, tail = ends(text)
    first, last = tokens(head), tokens(tail)
    lists = LEXICON.count(first, head)
    return [
        *lists,
        *(f"{name}*" for name, count in lists.items() if count > 1),
        *(f"<{name}" for name in LEXICON.count(first[:OPENING_WORDS])),
        *(f"{name}>" for name in LEXICON.count(last, tail)),
        *(f"{one}+{other}" for one, other in combinations(sorted(lists), 2)),
        *(f"={word}" for word in dict.fromkeys(first)),
        *(f"={one} {other}" for one, other in dict.fromkeys(pairwise(first))),
        *(f"={word}>" for word in dict.fromkeys(last)),
        *(f"={one} {other}>" for one, other in dict.fromkeys(pairwise(last))),
        *shape(text, head, first),
    ]


def words_of(feature: str, text: str) -> tuple[str, ...]:
    """The words of `text` that made a feature of word lists speak; none for other features."""
    if feature.startswith(("=", "#")):
        return ()
    head, tail = ends(text)
    part = tail if feature.endswith(">") else head
    words = tokens(part)[:OPENING_WORDS] if feature.startswith("<") else tokens(part)
    lists = feature.strip("<>*").split("+")
    return tuple(dict.fromkeys(entry for name in lists for entry in LEXICON.entries(name, words, part)))


def ends(text: str) -> tuple[str, str]:
    """The opening and the closing words.  Of a long text the first and the last line, if they are short."""
    head, tail = text[:HEAD_CHARS], text[HEAD_CHARS:][-TAIL_CHARS:]
    if len(text) > LONG_CHARS:
        first = head.partition("\n")[0]
        last = text[-TAIL_CHARS - 1 :].rstrip().rpartition("\n")[2]
        head = first if len(first) > MIN_LINE_CHARS else head
        tail = last if MIN_LINE_CHARS < len(last) <= TAIL_CHARS else tail
    return head, tail


def shape(text: str, head: str, first: list[str]) -> list[str]:
    """What the text looks like, whatever it says."""
    looked, end = text[:SHAPE_CHARS], text[-400:].rstrip()
    lower = looked.lower()
    math = any(mark in looked for mark in _MATH_MARKS)
    flags = {
        "#fence": "```" in text,
        "#asks": end.endswith("?"),
        "#asks head": "?" in head,
        "#colon": ":" in head,
        "#colon end": end.endswith(":"),
        "#quoted": '"' in head or "“" in head or "«" in head,
        "#items": has_items(end),
        "#or": "or" in first,
        "#or?": "or" in first and end.endswith("?"),
        "#options": len(_OPTION.findall(end)) >= 2,
        "#dashes": looked.count("\n- ") >= 2,
        "#digits": any(map(str.isdigit, first)),
        "#numbers": len(_NUMBER.findall(looked)) >= 3,
        "#dotted": _DOTTED.search(head) is not None,
        "#mixed": _MIXED.search(head) is not None,
        "#wide": is_wide(head),
        "#math": math,
        "#short last line": "\n" in end and len(end) - end.rfind("\n") < 120,
        "#speakers": 2 <= looked.count("\n") * 0.7 <= looked.count(": "),
    }
    symbols = sum(map(looked.count, _SYMBOLS)) * 100 / (len(looked) + 1)
    return [
        f"#size{bisect_left(SIZES, len(text))}",
        *_steps("#marks", sum(map(lower.__contains__, _CODE_MARKS)), (1, 2, 4, 6)),
        *_steps("#names", len(_NAME.findall(looked)), (1, 2, 4)),
        *_steps("#calls", len(_CALL.findall(looked)), (1, 2, 4)),
        *_steps("#math symbols" if math else "#symbols", symbols, (1, 2, 4, 8)),
        *(name for name, on in flags.items() if on),
    ]


def _steps(name: str, value: float, steps: tuple[int, ...]) -> list[str]:
    """`name` with every step that `value` reaches."""
    return [f"{name}{step}" for step in steps if value >= step]


def has_items(end: str) -> bool:
    """Three or more short items after a colon or a question mark: things to be labelled."""
    start = max(end.rfind(": "), end.rfind("? "), end.rfind(":\n"))
    items = end[start + 1 :].replace(";", ",").replace("\n", ",").split(",")
    return start >= 0 and len(items) >= 3 and max(map(len, items)) <= 40
