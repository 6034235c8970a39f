"""Extract the texts of a request: as they are written, and with escapes and odd characters replaced."""

from __future__ import annotations

import base64
import contextlib
import html
import re
from typing import Any

_MEDIA = re.compile(r"data:(?!image/svg)(?:image|audio|video)/[a-z0-9.+-]{1,40}(?:;[a-z0-9=.+-]{1,40}){0,2};base64,")
_MIN_MEDIA = 64  # characters after the comma: fewer cannot be a picture, but may be an account number
_FILE = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_MIN_NUMBER = 10**8  # a smaller one cannot be the number of a card, an account or a telephone
_MAX_FLOAT = 10**20  # larger than any of them
_NO_TEXT = (bool, type(None))
# Characters of typography and web pages, by the ASCII character that they replace.
_SPELLINGS = {
    " ": "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000",
    "-": "\u2010\u2011\u2012\u2013\u2212\uff0d",
    "": "\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202c\u202d\u2060\u2066\u2068\u2069\ufeff",
    **{char: chr(0xFEE0 + ord(char)) for char in "0123456789+.@()/"},  # fullwidth
}
# The first two bytes of each: a text without these bytes has none of the characters.
_LEADS = {char.encode()[:2] for variants in _SPELLINGS.values() for char in variants}
# Escapes of JSON in a string, at any depth (arguments of a tool), but only of the characters that can matter here.
# Letters of other scripts matter when a key follows them.
_ESCAPED = re.compile(r"(?<!\\)\\++u((?:00|20|22|30|[fF][eEfF])[0-9a-fA-F]{2}|[0-9a-fA-F]{4}(?=[!-\[\]-~]))")
_ESCAPED_CHARS = {"\\n": "\n", "\\r": "\n", "\\t": "\t", '\\"': '"', "\\/": "/"}
_MANY_ESCAPES = 2000  # from this number on, five calls of str.replace are faster than a function call for each
_ESCAPED_CHAR = re.compile(r"\\[nrt\"/]")
_PERCENT = re.compile(r"%(09|0[AD]|2[0-9BDEF]|3[A-F]|40|5[BD]|7[BCDE])", re.IGNORECASE)  # of addresses and forms
_ENTITY = re.compile(
    r"&(?:#\d{2,6}|#x[0-9a-f]{2,5}|nbsp|quot|apos|amp|lt|gt|commat|colon|equals|period|hyphen|lowbar);", re.I
)


def unescaped(text: str, raw: bytes) -> str:
    """Return the text without the escapes of JSON, URLs and HTML, and with ASCII spaces, dashes and digits.  `raw` is
    the text in UTF-8."""
    original = text
    if "\\" in text:
        if "\\u" in text:
            text = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)
        if text.count("\\") < _MANY_ESCAPES:
            text = _ESCAPED_CHAR.sub(lambda match: _ESCAPED_CHARS[match[0]], text)
        else:
            for escaped, char in _ESCAPED_CHARS.items():
                text = text.replace(escaped, char)
    if "%" in text:
        text = _PERCENT.sub(lambda match: chr(int(match[1], 16)), text)
    if "&" in text:
        text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
    if not text.isascii() and (text is not original or any(lead in raw for lead in _LEADS)):
        for char, variants in _SPELLINGS.items():
            for variant in variants:  # str.translate would take fifty times as long
                text = text.replace(variant, char)
    return text


def _is_media(text: str) -> bool:
    """Return True for a data URL that holds base64 and nothing else.  Anything else may hold text."""
    head = _MEDIA.match(text)
    if head is None or len(text) < head.end() + _MIN_MEDIA:
        return False
    return text.isascii() and not text[head.end() :].encode().translate(None, _BASE64)


def _file_text(url: str) -> str:
    """Return the text of a file that was sent as a data URL; "" when it is not text."""
    head = _FILE.match(url)
    if head is None:
        return ""
    with contextlib.suppress(ValueError):
        content = base64.b64decode(url[head.end() :].rstrip("=") + "==")
        return content.decode("utf-8", "replace" if url[:10].lower() == "data:text/" else "strict")
    return ""


def texts(document: object) -> dict[str, None]:
    """Return every string and every long number of a JSON document, and the text of its text files; not the data of
    images and sound.  Each text is there once, in the order of the document, so that every process finds the same."""
    result: dict[str, None] = {}
    stack: list[Any] = [document]
    while stack:
        item = stack.pop()
        kind = type(item)  # isinstance takes many times as long, most of all for Mapping
        if kind is str:
            if item[:5].lower() != "data:":
                result[item] = None
            elif not _is_media(item):
                result |= {item: None, _file_text(item): None}
        elif kind is list or kind is tuple:
            stack += item[::-1]
        elif kind is dict:
            stack += reversed(item.values())
            stack += reversed(item)
        elif kind is int:
            if item >= _MIN_NUMBER:
                result[str(item)] = None
        elif kind is float:
            if _MIN_NUMBER <= item < _MAX_FLOAT:
                result[f"{item:.0f}"] = None
        elif kind not in _NO_TEXT:
            raise TypeError(f"{kind} is no type of JSON: its text would not be searched")
    return result
