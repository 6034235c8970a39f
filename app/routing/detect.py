"""Finds private text in a request: deterministic detectors, and the operator's own patterns.  Pure.

All patterns run in RE2, whose time is linear in the text whatever the pattern: none can stall a worker.  A pattern
finds candidates; where the format has a check digit, the candidate must pass it.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import re2

from app.types import SensitivityRules

_MAX_PATTERN = 1000  # characters
_MAX_CANDIDATES = 2000
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
# JSON in a string, at any depth (a tool's arguments): only those whose character can matter here, letters of other
# scripts cannot.
_ESCAPED = re.compile(r"(?<!\\)\\++u((?:00|20|22|30|f[ef])[0-9a-f]{2})", re.IGNORECASE)
_ESCAPED_SPACES = {"\\n": "\n", "\\r": "\n", "\\t": "\t"}
_LINES = "(?m)"  # the texts of a request are joined by line ends: ^ and $ of a pattern are those of a line
_options = re2.Options()
_options.log_errors = False
_together = re2.Options()
_together.log_errors = False
_together.max_mem = 128 * 1024 * 1024  # bytes, for all patterns at once; RE2's default of 8 MiB is for one
MOST_BYTES = _together.max_mem // 4  # of them for programs: RE2 keeps the rest for matching
_INSTRUCTION_BYTES = 16  # sizeof(Prog::Inst)
TOO_MUCH = "need more memory together than RE2 may use; shorten or remove some"


class PatternError(ValueError):
    """A pattern that RE2 does not take; the message says why."""


# Characters of an IBAN by country, from the registry of ISO 13616.
_IBANS = """
AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 FI18
FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20
LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24
SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30
"""
_IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in _IBANS.split()}


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _is_card(text: str) -> bool:
    """Luhn's check over a length and a first digit that card brands use (ISO/IEC 7812)."""
    digits = _digits(text)
    if len(digits) not in (13, 14, 15, 16, 19) or digits[0] not in "23456" or len(set(digits)) == 1:
        return False
    doubled = [int(digit) * 2 for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(n - 9 if n > 9 else n for n in doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    """The mod-97 check of ISO 13616, over the length that the country uses: a following word may have been caught."""
    plain = re.sub(r"[ -]", "", text).upper()
    length = _IBAN_LENGTHS.get(plain[:2], 99)
    plain = plain[:length]
    return len(plain) == length and int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


def _is_ssn(text: str) -> bool:
    """Never issued: area 000, 666 and 900 up, group 00, serial 0000 (Social Security Administration)."""
    area, group, serial = re.split(r"[- ]", text)
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _is_phone(text: str) -> bool:
    return 9 <= len(_digits(text)) <= 15


def _always(text: str) -> bool:  # noqa: ARG001
    return True


_BUILT_IN: Mapping[str, tuple[str, Callable[[str], bool]]] = {
    "api_key": (
        r"\b(?:sk|pk|rk)[-_](?:[A-Za-z0-9]+[-_])*[A-Za-z0-9]{16,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}"
        r"|\bglpat-[\w-]{20,}|\bxox[abeprs]-[A-Za-z0-9-]{10,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[\w-]{35}"
        r"|\bhf_[A-Za-z0-9]{30,}|\bgsk_[A-Za-z0-9]{20,}|\bnpm_[A-Za-z0-9]{36}|\bSG\.[\w-]{16,}\.[\w-]{16,}"
        r"|(?i:\b(?:api|secret|access|auth)[_-]?(?:key|token)[\"']?\s*[:=]\s*[\"']?[A-Za-z0-9_\-+/]{20,})",
        _always,
    ),
    "private_key": (r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----", _always),
    "jwt": (r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*", _always),
    "credit_card": (  # 13 to 19 digits, unbroken or in groups of 4-4-4-4(-3), 4-6-5 or 4-6-4
        r"(?:^|[^\d.-])\d{4}(?:(?:[ -]?\d{4}){2,3}[ -]?\d{1,4}|[ -]?\d{6}[ -]?\d{4,5})(?:$|[^\d-])",
        _is_card,
    ),
    "iban": (r"(?i)\b[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}\b", _is_iban),
    "us_ssn": (r"\b\d{3}[- ]\d{2}[- ]\d{4}\b", _is_ssn),
    "email": (r"\b[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}\b", _always),
    "phone": (
        r"(?:^|[^\w.+-])(?:\+[1-9]\d{0,2}[ .-]?(?:\(0?\d{1,4}\)[ .-]?)?(?:\d{1,4}[ ./-]?){2,5}\d{2,4}"
        r"|\(?[2-9]\d{2}\)?[ .-][2-9]\d{2}[ .-]\d{4})\b",
        _is_phone,
    ),
}

DETECTORS = tuple(_BUILT_IN)


def check_pattern(pattern: object) -> int:
    """Return the bytes of its program in RE2.  Raises PatternError when an operator's pattern cannot be used."""
    if not isinstance(pattern, str) or not pattern:
        raise PatternError("must be a regular expression in quotes")
    if len(pattern) > _MAX_PATTERN:
        raise PatternError(f"is longer than {_MAX_PATTERN} characters")
    try:
        compiled = re2.compile(pattern, _options)
    except re2.error as error:
        said = error.args[0] if error.args else ""
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        raise PatternError(f"is not a pattern RE2 takes: {text}") from None
    if compiled.search(""):
        raise PatternError("matches the empty text: every request would be private")
    return int(compiled.programsize) * _INSTRUCTION_BYTES


class Detectors:
    """The detectors a policy asks for."""

    def __init__(self, rules: SensitivityRules) -> None:
        """Raises PatternError when the patterns, each of which may be fine, are too much together."""
        self._checks: list[tuple[str, Any, Callable[[str], bool]]] = []
        self._any = re2.Set.SearchSet(_together)
        try:
            for name in rules.detect:
                self._checks.append((name, re2.compile(_BUILT_IN[name][0], _options), _BUILT_IN[name][1]))
            for index, pattern in enumerate(rules.patterns):
                self._checks.append((f"patterns[{index}]", re2.compile(_LINES + pattern, _options), _always))
            for _, pattern, _ in self._checks:
                self._any.Add(pattern.pattern)
            if self._checks:
                self._any.Compile()
        except re2.error:
            raise PatternError(TOO_MUCH) from None

    def find(self, *documents: Any) -> str | None:
        """The name of the first detector that finds something in any text or number of the request, names of members
        included; None when there is nothing.  Linear in the size of the texts.  Objects may be mappings or tuples of
        pairs."""
        if not self._checks:
            return None
        text = "\n".join([part for document in documents for part in _texts(document)])
        plain = _plain(text)
        return self._find(text) or (self._find(plain) if plain != text else None)

    def _find(self, text: str) -> str | None:
        raw = text.encode("utf-8", "replace")
        for index in sorted(self._any.Match(raw) or ()):
            name, pattern, is_it = self._checks[int(index)]
            if is_it is _always or _any_passes(is_it, _candidates(pattern, raw)):
                return name
        return None


def _plain(text: str) -> str:
    if "\\" in text:
        text = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
        for escaped, space in _ESCAPED_SPACES.items():
            text = text.replace(escaped, space)
    if not text.isascii():
        for plain, odd in _SPELLINGS.items():
            for char in odd:  # str.translate would take fifty times as long
                text = text.replace(char, plain)
    return text


def _candidates(pattern: Any, raw: bytes) -> Iterator[Any]:
    """All matches, also those that begin inside another: a number before a card's must not hide it."""
    found = pattern.search(raw)
    while found:
        yield found
        found = pattern.search(raw, found.start() + 1)


def _any_passes(is_it: Callable[[str], bool], candidates: Iterable[Any]) -> bool:
    """More candidates than anybody checks by hand count as found: the doubt keeps the request at home."""
    return any(number >= _MAX_CANDIDATES or is_it(found.group().decode()) for number, found in enumerate(candidates))


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


def _texts(document: Any) -> set[str]:
    """Every string and every long number in a document, but the data of images and sound; of a file that is text, what
    it says.  What comes again and again, names of members above all, is there once."""
    found: set[str] = set()
    todo = [document]
    while todo:
        item = todo.pop()
        kind = type(item)  # isinstance, of Mapping above all, takes many times as long
        if kind is str:
            if item[:5].lower() != "data:":
                found.add(item)
            elif not _is_media(item):
                found |= {item, _file_text(item)}
        elif kind is list or kind is tuple:
            todo += item
        elif kind is dict:
            todo += item
            todo += item.values()
        elif kind is int:
            if item >= _LONG_NUMBER:
                found.add(str(item))
        elif kind is float:
            if _LONG_NUMBER <= item < _LONGEST_NUMBER:
                found.add(f"{item:.0f}")
        elif kind not in _NO_TEXT:
            raise TypeError(f"{kind} does not come from JSON: nothing may pass unread")
    return found
