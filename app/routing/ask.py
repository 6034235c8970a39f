"""Find the ask in a prompt: the words that say what the user wants, apart from a text that the user gives.

Users name their task in their first or their last words, so only those are read, not the document between them.
"""

from __future__ import annotations

import re
from pathlib import Path

from app.routing.lexicon import Lexicon, is_wide, tokens

HEAD_CHARS = 220
TAIL_CHARS = 140
WIDE_CHARS = 100  # a character of Chinese says as much as several of English
LONG_CHARS = 300  # in a longer text, a short first or last line replaces the head or the tail
MIN_LINE_CHARS = 10  # a shorter line, such as `Article:`, does not name a task
LAST_LINES_CHARS = 600
MAX_OPTIONS = 12  # lines of options that may follow the ask
BEGIN_CHARS, BEGIN_WORDS = 60, 2  # an ask shows in its first two words
GIVEN_CHARS = 12  # a shorter text is not a given one

_ASKS = Lexicon(Path(__file__).with_name("lexicon_ask.txt"))
_QUOTE = re.compile(r"[\"“«「„][^\"”»」“]{12}|(?<!\w)'[^'\n]{12}")
_BODY = re.compile(r":(?!//)\s?(?=[^/\d])|：|\n|\s[-–—]\s")  # what stands between an ask and the text that is given
_SENTENCE = re.compile(r"[.?!]\s|[。？！؟।]")
_OPTION = re.compile(r"\s{0,4}(?:[-*•]|\(?[A-Za-z0-9][).:]|options?\b|choices\b|labels\b|classes\b)", re.IGNORECASE)


def ends(text: str) -> tuple[str, str]:
    """Return the ask and the closing words; where the ask is the last line, the ask and the opening words."""
    head, tail = _ends(text)
    return (head[:WIDE_CHARS], tail[-WIDE_CHARS:]) if is_wide(head) else (head, tail)


def _ends(text: str) -> tuple[str, str]:
    first, newline, _ = text[: HEAD_CHARS + 1].partition("\n")
    asks_first = _asks(first)
    lines = text[-LAST_LINES_CHARS:].rstrip().split("\n")
    if len(lines) > 1 and not asks_first and (ask := _last_ask(lines)):
        return ask[:HEAD_CHARS], text[:TAIL_CHARS]
    last = lines[-1][-TAIL_CHARS:]
    if newline and len(first) > MIN_LINE_CHARS and (asks_first or len(text) > LONG_CHARS):
        head = first
    else:
        head = text[:HEAD_CHARS]
    is_line = len(text) > LONG_CHARS and MIN_LINE_CHARS < len(last) < TAIL_CHARS
    return head, last if is_line else text[len(head) :][-TAIL_CHARS:]


def _last_ask(lines: list[str]) -> str:
    """Return the last line when it asks, with the lines of options that may follow it; else ""."""
    for number in range(len(lines) - 1, max(0, len(lines) - MAX_OPTIONS), -1):
        if _asks(lines[number]):
            return "\n".join(lines[number:])
        if lines[number] and not _OPTION.match(lines[number]):
            break
    return ""


def _asks(line: str) -> bool:
    """Return True for a short line that is a question or begins as an ask."""
    if len(line) > HEAD_CHARS:
        return False
    return line.endswith(("?", "？", "؟")) or bool(_ASKS.count(tokens(line[:BEGIN_CHARS])[:BEGIN_WORDS], line))


def given(text: str, ask: str) -> str:
    """Return `given` when there is a text apart from the ask, `more` for further sentences, else `bare`.

    A pattern runs only where a character shows that it may match.
    """
    end = len(text.rstrip())
    if text.find("\n", GIVEN_CHARS, end) >= 0:
        return "given"
    plain = ask.isascii()
    if (not plain or '"' in ask or "'" in ask) and _QUOTE.search(ask):
        return "given"
    mark = _BODY.search(ask) if not plain or ":" in ask or " - " in ask or "\n" in ask else None
    if mark and end - mark.end() >= GIVEN_CHARS:
        return "given"
    sentence = _SENTENCE.search(ask)
    return "more" if sentence and end - sentence.end() >= GIVEN_CHARS else "bare"
