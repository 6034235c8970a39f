"""Remove the blocks that editors and agents put around the words of a user: `<system-reminder>…</system-reminder>`."""

from __future__ import annotations

import re

from app.routing.signatures import SIGNATURES

_MAX_BLOCKS = 40
_OPEN = re.compile(r"\s*+<([A-Za-z][\w:.-]{1,40})(?:\s[^<>]{0,400}+)?>")
_CLOSE = re.compile(r"</([A-Za-z][\w:.-]{1,40})>\s*+$")
_MAY_BEGIN, _MAY_END = frozenset("< \t\r\n"), frozenset("> \t\r\n")
_LONGEST_CLOSE = 200  # characters, with the white space behind it

# The names of one word.  Names of HTML are not here: they are code.
_HARNESS_TAGS = frozenset(
    {"system", "reminder", "instructions", "context", "document", "documents", "doc", "file", "files", "attachment"}
    | {"attachments", "environment", "editor", "workspace", "selection", "quote", "transcript", "article", "passage"}
    | {"source", "sources", "memory", "tool", "tools"}
)


def without_outer_blocks(text: str) -> str:
    """Return a text of any length without the blocks at its beginning and at its end."""
    if text[:1] not in _MAY_BEGIN and text[-1:] not in _MAY_END:
        return text
    begin, end = 0, len(text)
    for _ in range(_MAX_BLOCKS):
        opens = _OPEN.match(text, begin)
        closes = _end_of_block(text, opens) if opens else -1
        if closes < 0:
            break
        begin = closes
    for _ in range(_MAX_BLOCKS):
        shut = _CLOSE.search(text, max(begin, end - _LONGEST_CLOSE), end)
        start = text.rfind(f"<{shut[1]}", begin, shut.start()) if shut and _is_harness(shut[1]) else -1
        if start < 0:
            break
        end = start
    return text[begin:end]


def _end_of_block(text: str, opens: re.Match[str]) -> int:
    """Return where the block of a tag ends; -1 when it is no harness block."""
    close = f"</{opens[1]}>"
    at = text.find(close, opens.end()) if _is_harness(opens[1]) else -1
    return at + len(close) if at >= 0 else -1


def own_words(text: str) -> str:
    """Return a text that was shortened without the blocks around the words of the user."""
    if "<" in text and "</" in text:
        text = _ask_in_tag(_without_blocks(text).strip())
    return text.strip()


def inside(text: str) -> str:
    """Return what stands in the block that a text consists of: the ask may stand in a tag that is not known."""
    opens = _OPEN.match(text)
    end = text.rfind(f"</{opens[1]}>") if opens else -1
    return text[opens.end() : end].strip() if opens and end >= 0 else text.strip()


def _ask_in_tag(text: str) -> str:
    """Return the ask that stands inside of a tag for asks; the text when there is none."""
    for begin in _ASK_TAG.finditer(text):
        name = _plain(begin[1])
        end = text.rfind(f"</{begin[1]}>", begin.end())
        is_whole = begin.start() == 0 and end + len(begin[1]) + 3 == len(text)
        if end >= 0 and (name in _ASK_NAMES or (is_whole and name in SIGNATURES.plain_ask_tags)):
            return text[begin.end() : end]
    return text


def _plain(tag: str) -> str:
    """Return a name in lower case without what divides its words: `user_query` and `userQuery` are one name."""
    return tag.replace("-", "").replace("_", "").lower()


_ASK_NAMES = frozenset(map(_plain, SIGNATURES.ask_tags))
_ASK_TAG = re.compile(
    f"<({'|'.join(sorted(name.replace('_', '[_-]?') for name in SIGNATURES.ask_tags | SIGNATURES.plain_ask_tags))})"
    r"(?:\s[^<>]{0,200}+)?>",
    re.IGNORECASE,
)


def _without_blocks(text: str) -> str:
    parts, begin = [], 0
    for _ in range(_MAX_BLOCKS):
        start, end = _next_block(text, begin)
        if start < 0:
            break
        parts.append(text[begin:start])
        begin = end
    return "\n".join([*parts, text[begin:]])


def _next_block(text: str, begin: int) -> tuple[int, int]:
    """Return start and end of the next harness block; (-1, -1) when there is none."""
    start = text.find("<", begin)
    for _ in range(_MAX_BLOCKS):
        if start < 0:
            break
        name = text[start + 1 : start + 41].split(">")[0].split(" ")[0]
        if _is_harness(name):
            close = f"</{name}>"
            end = text.find(close, start)
            if end >= 0:
                return start, end + len(close)
        start = text.find("<", start + 1)
    return -1, -1


def _is_harness(tag: str) -> bool:
    """Return True for a tag of two words, such as `system-reminder`, and for those of _HARNESS_TAGS.  Of tags such as
    `editorContext`, which are also names of code and configuration, the last word tells."""
    letters = tag.replace("-", "").replace("_", "").replace(":", "")
    if not letters.isalpha() or _plain(tag) in _ASK_NAMES:
        return False
    return letters != tag or _last_word(tag) in _HARNESS_TAGS


def _last_word(tag: str) -> str:
    """Return the last word of a name such as `editorContext`, in lower case."""
    capitals = [at for at, letter in enumerate(tag) if letter.isupper()] if tag[0].islower() else []
    return tag[capitals[-1] if capitals else 0 :].lower()
