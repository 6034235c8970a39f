"""Bring program code into a normal form: its tokens, without comments and white space."""

from __future__ import annotations

import re

from app.routing.answer.lists import WORDS

_TOKEN = re.compile(
    r"(?P<comment>(?:\#(?!include|define)|//)[^\n]*+|/\*(?:[^*]|\*(?!/))*+(?:\*/)?|--\s[^\n]*+)"
    r"|(?P<text>\"(?:[^\"\\\n]|\\.)*+\"?|'(?:[^'\\\n]|\\.)*+'?)"
    r"|(?P<word>\w++)|(?P<sign>[^\w\s])"
)
_SIGNS = frozenset("{}();=<>[]")
_MOST_TOKENS = 4_000
_SQL = frozenset(WORDS["sql"])


def is_code(text: str, wants: str) -> bool:
    """Return True when an answer is code: a block of it, or signs of code where code was asked for."""
    if text.count("```") >= 2:
        inner = max(text.split("```")[1::2], key=len)
        return not inner.lstrip().startswith(("json", "text", "{", "[")) and len(inner) > 0.3 * min(len(text), 8_000)
    if wants != "code":
        return False
    part = text[:2_000]
    signs = sum(part.count(sign) for sign in _SIGNS)
    return signs > 0.02 * len(part) or _is_sql(part)


def _is_sql(text: str) -> bool:
    words = text[:200].split(None, 1)
    return bool(words) and words[0].lower() in _SQL


def code_tokens(text: str) -> list[str]:
    """Return the tokens of code.  The quotes of texts, a final semicolon and the case of SQL make no difference."""
    result: list[str] = []
    is_sql = _is_sql(text)
    for match in _TOKEN.finditer(text):
        if match["comment"] is not None:
            continue
        token = match[0]
        if match["text"] is not None:
            token = '"' + token[1:-1] + '"'
        elif is_sql:
            token = token.lower()
        result.append(token)
        if len(result) == _MOST_TOKENS:
            break
    while result and result[-1] == ";":
        result.pop()
    return result
