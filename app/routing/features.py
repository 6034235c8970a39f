"""Extract the features of a text that hint at its task.  Training and the running router share this code.

The name of a feature tells what was found, and where (`ask.py` finds the ask): `tech` an entry of that word list in the
ask, `tech*` more than one entry, `<tech` in its opening words, `1tech` in the first word that names something wanted,
`tech>` in the closing words of the prompt, `event+now` two lists together, `given+summary` a list of the ask and that
a text is given, `=word` and `=two words` the words themselves (`=word>` in the closing ones), `#fence` the shape.

Half of the features have no weight, so the router builds no names: it looks up the keys of each form (`{}+{}`: pairs of
lists) among the features with a weight.  The names are for training and for the evidence.
"""

from __future__ import annotations

import re
import string
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import chain, combinations, islice, pairwise
from pathlib import Path

from app.routing.ask import ends, given
from app.routing.lexicon import Lexicon, is_wide, tokens

OPENING_WORDS = 4
SHAPE_CHARS = 1_500

LEXICON = Lexicon(Path(__file__).with_name("lexicon_task.txt"))
# The lists that name what the user wants; the first of them counts more than those after it.
CONTENT = frozenset(
    {"text", "summary", "gist", "shorten", "classify", "labelnoun", "polarity", "creative", "rewrite", "translate"}
    | {"math", "food", "health", "weather", "news", "market", "event", "transport", "tech", "techweak", "codenoun"}
    | {"qagen", "animals"}
)

Key = str | tuple[str, ...]
Signals = Mapping[str, Iterable[Key]]  # the form of a name -> the keys that fill it

_CALL = re.compile(r"(?<![A-Za-z_])[A-Za-z_]\w{1,60}+\((?!s\)|es\)|ies\))")  # `print(`, not `shoe(s)`
_NAME = re.compile(r"\b[a-z]{1,30}+(?:_[a-z]{1,30}|[A-Z][a-z]{1,30})")  # snake_case, camelCase
_MAYBE_NAME = re.compile(r"[_A-Z](?<=[a-z].)[a-z]")
_DOTTED = re.compile(r"[a-z]\w{0,30}\.[a-z]\w")  # foo.bar
_MAYBE_DOTTED = re.compile(r"\.[a-z]\w")
_FILE = re.compile(  # src/main.rs, package.json, Dockerfile
    r"\w\.(?:py|js|jsx|ts|tsx|rs|go|rb|java|kt|cs|cpp|cc|[ch]|php|sh|sql|html|css|json|ya?ml|toml|xml|cfg|ini|gradle|lock"
    r"|ipynb|env|tf|vue|swift|scala|pl|lua|md|conf|log)(?![\w.])|\b(?:Docker|Make|Jenkins|Gem|Proc)file\b|\bsrc/"
)
_MAYBE_FILE = re.compile(r"\.[a-z]|file\b|src/")
_DIFF = ("diff --git", "\n@@ ", "\n+++ ", "Traceback (most", "\nOn branch ")
_MIXED = re.compile(r"\b(?:[a-zA-Z]{1,20}\d|[A-Z]{3,20}\b)")  # utf8, DSA
_MAYBE_MIXED = re.compile(r"[A-Z\d](?:(?<=[a-zA-Z]\d)|[A-Z]{2})")
_NUMBER = re.compile(r"\d+")
_OPTION = re.compile(r"(?:^|[\s(])[A-Ea-e1-5][).]\s")  # A) … B) …
_MAYBE_OPTION = re.compile(r"[).](?<=[A-Ea-e1-5].)\s")
_CODE_MARKS = (
    "();", "=>", "==", "!=", "def ", "import {", "import java", "\nimport ", "print(", "</", "#include", "select * ",
    "::", "&&", "||", "self.", "console.log", "function(", "public ", "{\n", "};", "->", "+=", "sudo ", "/>", "<?",
    "$(", "[0]", "[i]", "\n    ", "return ", ".py", ".js", "['", "http://localhost", "`",
)  # fmt: skip
_SYMBOLS = b"{}();=<>[]_"
_MATH_MARKS = ("$", "^", "\\frac", "\\sum")
_COMMON = (string.ascii_letters + " .,'?!-\n").encode()  # most prose has no other characters
SIZES = (20, 40, 80, 160, 320, 640, 1280, 2560)


def _by_rare_character(marks: Iterable[str]) -> tuple[list[str], dict[int, list[str]]]:
    """Return the marks that consist of common characters, and the others by a rare character that each one holds."""
    common: list[str] = []
    others: dict[int, list[str]] = {}
    for mark in marks:
        rare = mark.encode().translate(None, _COMMON)
        (others.setdefault(rare[0], []) if rare else common).append(mark)
    return common, others


_COMMON_MARKS, _RARE_MARKS = _by_rare_character(_CODE_MARKS)


def signals(text: str) -> Signals:
    """Return the features of `text`, by form.  A key may come twice; it counts once."""
    head, tail = ends(text)
    first = tokens(head)
    lists = LEXICON.count(first, head)
    body = given(text, head)
    keys: dict[str, Iterable[Key]] = {
        "{}": [*lists, *shape(text, head, first), f"#{body}"],
        "{}*": [name for name, count in lists.items() if count > 1],
        "<{}": LEXICON.count(first[:OPENING_WORDS]),
        "1{}": LEXICON.first(first, CONTENT),
        "{}+{}": [*combinations(sorted(lists), 2), *((body, name) for name in lists)],
        "={}": first,
        "={} {}": pairwise(first),
    }
    if tail:
        last = tokens(tail)
        keys |= {"{}>": LEXICON.count(last, tail), "={}>": last, "={} {}>": pairwise(last)}
    return keys


def features(text: str) -> list[str]:
    """Return the names of the features of `text`, each once."""
    return [_name(form, key) for form, keys in signals(text).items() for key in dict.fromkeys(keys)]


def _name(form: str, key: Key) -> str:
    return form.format(key) if isinstance(key, str) else form.format(*key)


def parse_name(name: str) -> tuple[str, Key]:
    """Return the form and the key of a name."""
    if name.startswith("#"):
        return "{}", name
    begin, end = name[0] if name[0] in "<1=" else "", name[-1] if name[-1] in "*>" else ""
    joint = " " if begin == "=" else "+"
    keys = name[len(begin) : len(name) - len(end)].split(joint)
    form = begin + joint.join("{}" for _ in keys) + end
    return form, keys[0] if len(keys) == 1 else tuple(keys)


def words_of(feature: str, text: str) -> tuple[str, ...]:
    """Return the words of `text` in which a feature of word lists was found; none for other features."""
    if feature.startswith(("=", "#")):
        return ()
    head, tail = ends(text)
    part = tail if feature.endswith(">") else head
    words = tokens(part)[:OPENING_WORDS] if feature.startswith("<") else tokens(part)
    lists = feature.strip("<1>*").split("+")
    entries = dict.fromkeys(entry for name in lists for entry in LEXICON.entries(name, words, part))
    return tuple(entries)[: 1 if feature.startswith("1") else None]


def shape(text: str, head: str, first: list[str]) -> list[str]:
    """Return the features of the text's form, whatever its words are.

    A slow pattern runs only where a faster one, or the set of rare characters, shows that it may match.
    """
    beginning, end = text[:SHAPE_CHARS], text[-400:].rstrip()
    lower, rare = beginning.lower(), beginning.encode("utf-8", "replace").translate(None, _COMMON)
    math = any(mark in beginning for mark in _MATH_MARKS)
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
        "#options": len(_MAYBE_OPTION.findall(end)) >= 2 and len(_OPTION.findall(end)) >= 2,
        "#dashes": beginning.count("\n- ") >= 2,
        "#digits": any(map(str.isdigit, first)),
        "#numbers": len(rare) >= 3 and _count(_NUMBER, beginning) >= 3,
        "#dotted": bool(_MAYBE_DOTTED.search(head) and _DOTTED.search(head)),
        "#file": bool(_MAYBE_FILE.search(beginning) and _FILE.search(beginning)),
        "#diff": any(mark in beginning for mark in _DIFF),
        "#mixed": bool(_MAYBE_MIXED.search(head) and _MIXED.search(head)),
        "#wide": is_wide(head),
        "#math": math,
        "#short last line": "\n" in end and len(end) - end.rfind("\n") < 120,
        "#speakers": 2 <= beginning.count("\n") * 0.7 <= beginning.count(": "),
    }
    marks = chain(_COMMON_MARKS, *(_RARE_MARKS[char] for char in _RARE_MARKS.keys() & rare))
    names = _count(_NAME, beginning) if _MAYBE_NAME.search(beginning) else 0
    calls = _count(_CALL, beginning) if b"(" in rare else 0
    symbols = (len(rare) - len(rare.translate(None, _SYMBOLS))) * 100 / (len(beginning) + 1)
    return [
        f"#size{bisect_left(SIZES, len(text))}",
        *_steps("#marks", sum(map(lower.__contains__, marks)), (1, 2, 4, 6)),
        *_steps("#names", names, (1, 2, 4)),
        *_steps("#calls", calls, (1, 2, 4)),
        *_steps("#math symbols" if math else "#symbols", symbols, (1, 2, 4, 8)),
        *(name for name, on in flags.items() if on),
    ]


def _count(pattern: re.Pattern[str], text: str) -> int:
    """Return the number of matches, at most 4: no step asks for more, and code may hold hundreds."""
    return sum(1 for _ in islice(pattern.finditer(text), 4))


def _steps(name: str, value: float, steps: tuple[int, ...]) -> list[str]:
    """Return `name` with every step that `value` reaches."""
    return [f"{name}{step}" for step in steps if value >= step]


def has_items(end: str) -> bool:
    """Return True for three or more short items after a colon or a question mark: things to be labelled."""
    start = max(end.rfind(": "), end.rfind("? "), end.rfind(":\n"))
    items = end[start + 1 :].replace(";", ",").replace("\n", ",").split(",")
    return start >= 0 and len(items) >= 3 and max(map(len, items)) <= 40
