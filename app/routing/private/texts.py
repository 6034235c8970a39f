"""The texts of a request: everything in it that can be read, as it stands and in plain spelling."""

from __future__ import annotations

import base64
import contextlib
import html
import re
from typing import Any

_MEDIA = re.compile(r"data:(?!image/svg)(?:image|audio|video)/[a-z0-9.+-]{1,40}(?:;[a-z0-9=.+-]{1,40}){0,2};base64,")
_SHORTEST_MEDIA = 64  # characters behind the comma: with fewer there is no picture, but perhaps an account number
_FILE = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_LONG_NUMBER = 10**8  # shorter ones are no card, account or telephone number
_LONGEST_NUMBER = 10**20  # as a float: longer than any of them
_NO_TEXT = (bool, type(None))
# What typography and web pages put into numbers, by what stands there in plain text.
_SPELLINGS = {
    " ": "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000",
    "-": "\u2010\u2011\u2012\u2013\u2212\uff0d",
    "": "\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202c\u202d\u2060\u2066\u2068\u2069\ufeff",
    **{char: chr(0xFEE0 + ord(char)) for char in "0123456789+.@()/"},  # fullwidth
}
_LEADS = {char.encode()[:2] for odd in _SPELLINGS.values() for char in odd}  # in a text without them none of them is
# JSON in a string, at any depth (a tool's arguments): only those whose character can matter here.  Letters of other
# scripts matter where a key follows them.
_ESCAPED = re.compile(r"(?<!\\)\\++u((?:00|20|22|30|[fF][eEfF])[0-9a-fA-F]{2}|[0-9a-fA-F]{4}(?=[!-\[\]-~]))")
_ESCAPED_CHARS = {"\\n": "\n", "\\r": "\n", "\\t": "\t", '\\"': '"', "\\/": "/"}
_MANY_ESCAPES = 2000  # from so many on five passes without a call are faster than one with a call for each
_ESCAPED_CHAR = re.compile(r"\\[nrt\"/]")
_PERCENT = re.compile(r"%(09|0[AD]|2[0-9BDEF]|3[A-F]|40|5[BD]|7[BCDE])", re.IGNORECASE)  # of addresses and forms
_ENTITY = re.compile(
    r"&(?:#\d{2,6}|#x[0-9a-f]{2,5}|nbsp|quot|apos|amp|lt|gt|commat|colon|equals|period|hyphen|lowbar);", re.I
)


def plain(text: str, raw: bytes) -> str:
    """Return the text with escapes of JSON, addresses and HTML undone and odd spaces and dashes made plain ones.  `raw`
    is the text in UTF-8."""
    original = text
    if "\\" in text:
        if "\\u" in text:
            text = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
        if text.count("\\") < _MANY_ESCAPES:
            text = _ESCAPED_CHAR.sub(lambda found: _ESCAPED_CHARS[found[0]], text)
        else:
            for escaped, char in _ESCAPED_CHARS.items():
                text = text.replace(escaped, char)
    if "%" in text:
        text = _PERCENT.sub(lambda found: chr(int(found[1], 16)), text)
    if "&" in text:
        text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    if not text.isascii() and (text is not original or any(lead in raw for lead in _LEADS)):
        for char, odd in _SPELLINGS.items():
            for each in odd:  # str.translate would take fifty times as long
                text = text.replace(each, char)
    return text


def _is_media(text: str) -> bool:
    """A data URL of base64 digits and nothing else: what only begins like an image is text."""
    head = _MEDIA.match(text)
    if head is None or len(text) < head.end() + _SHORTEST_MEDIA:
        return False
    return text.isascii() and not text[head.end() :].encode().translate(None, _BASE64)


def _file_text(url: str) -> str:
    """What a file that is sent as a data URL says; "" when it is no text."""
    head = _FILE.match(url)
    if head is None:
        return ""
    with contextlib.suppress(ValueError):
        content = base64.b64decode(url[head.end() :].rstrip("=") + "==")
        return content.decode("utf-8", "replace" if url[:10].lower() == "data:text/" else "strict")
    return ""


def texts(document: Any) -> dict[str, None]:
    """Every string and every long number in a document, but the data of images and sound; of a file that is text, what
    it says.  They come in the order of the document, so that the same is found in it by every process.  What comes
    again and again, names of members above all, is there once."""
    found: dict[str, None] = {}
    todo = [document]
    while todo:
        item = todo.pop()
        kind = type(item)  # isinstance, of Mapping above all, takes many times as long
        if kind is str:
            if item[:5].lower() != "data:":
                found[item] = None
            elif not _is_media(item):
                found |= {item: None, _file_text(item): None}
        elif kind is list or kind is tuple:
            todo += item[::-1]
        elif kind is dict:
            todo += reversed(item.values())
            todo += reversed(item)
        elif kind is int:
            if item >= _LONG_NUMBER:
                found[str(item)] = None
        elif kind is float:
            if _LONG_NUMBER <= item < _LONGEST_NUMBER:
                found[f"{item:.0f}"] = None
        elif kind not in _NO_TEXT:
            raise TypeError(f"{kind} does not come from JSON: nothing may pass unread")
    return found
