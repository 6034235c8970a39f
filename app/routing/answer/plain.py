"""Write a statement in plain characters, and split it into tokens: LaTeX, Markdown and typographic forms become ASCII.

Statements are short (see `final`), so all work here is bounded.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

MOST_CHARS = 600  # of one statement
_VULGAR = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
    "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8",
}  # fmt: skip
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True))
_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "—": " - ", "‑": "-", "’": "'", "‘": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"',
     "×": "*", "⋅": "*", "·": "*", "÷": "/", "⁄": "/", "≈": "=", "≃": "=", "\u00a0": " ", "\u202f": " ", "\u2009": " ",
     "º": "°", "，": ",", "。": ". ", "：": ": ", "、": ", "}
)  # fmt: skip
_MACROS = {
    "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac", "\\left": "", "\\right": "", "\\times": "*",
    "\\cdot": "*", "\\div": "/", "\\approx": "=", "\\simeq": "=", "\\%": "%", "\\$": "$", "\\,": "", "\\!": "",
    "\\;": " ", "\\:": " ", "\\ ": " ", "\\quad": " ", "\\qquad": " ", "{,}": ",", "\\pi": "π", "\\infty": "∞",
    "^\\circ": "°", "^{\\circ}": "°", "\\circ": "°", "\\degree": "°", "\\(": " ", "\\)": " ", "\\[": " ", "\\]": " ",
    "\\pm": "±", "\\le": "<=", "\\ge": ">=", "\\euro": "€", "\\pounds": "£", "\\&": "&", "\\#": "#", "\\_": "_",
    "\\ldots": "...", "\\dots": "...", "\\{": "{", "\\}": "}", "\\displaystyle": "", "~": " ",
}  # fmt: skip
_MACRO = re.compile("|".join(sorted(map(re.escape, _MACROS), key=len, reverse=True)))
_WORDS_MACRO = re.compile(
    r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it|sf|tt)|mbox|operatorname|boldsymbol)\s{0,2}\{([^{}]{0,80})\}"
)
_FRACTION = re.compile(r"\\frac\s{0,2}\{([^{}]{1,60})\}\s{0,2}\{([^{}]{1,60})\}")
_SHORT_FRACTION = re.compile(r"\\frac\s{0,2}(\d)\s{0,2}(\d)")
_ROOT = re.compile(r"\\sqrt\s{0,2}(?:\{([^{}]{1,60})\}|(\d))")
_POWER = re.compile(r"\^\s{0,2}\{([^{}]{1,40})\}")
_NUMBER_IN_BRACKETS = re.compile(r"\((\d{1,30}(?:[.,]\d{1,30})?|\d{0,9}π|\d{0,9}√\(?\d{1,9}\)?)\)")
_RAISED_RUN = re.compile(f"[{''.join(_RAISED)}]{{1,8}}")
_TOKEN = re.compile(
    r"\d++(?:[.,'\u2019]\d++|\x20\d{3}(?!\d))*+(?:[eE][+-]?\d{1,3}(?![^\W_]))?"  # a number
    r"|[^\W\d_]++(?:['\u2019][^\W\d_]++)*+"  # a word
    r"|[^\s\w]|_"  # a sign
)


class Token(NamedTuple):
    """Hold a number, a word in lower case or a sign, with its place in the text."""

    text: str
    start: int
    end: int

    @property
    def is_number(self) -> bool:
        """Return True for digits."""
        return self.text[0].isdigit()

    @property
    def is_word(self) -> bool:
        """Return True for letters."""
        return self.text[0].isalpha()


def plain(text: str) -> str:
    """Return a statement without LaTeX, Markdown emphasis and typographic signs."""
    text = text[:MOST_CHARS]
    if not text.isascii():
        for sign, fraction in _VULGAR.items():
            text = text.replace(sign, f" {fraction}")
        text = _RAISED_RUN.sub(lambda run: "^" + "".join(_RAISED[sign] for sign in run[0]), text)
        text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS)
    if "\\" in text or "{" in text or text.count("$") > 1:
        text = _without_latex(text)
    text = text.replace("**", "").replace("__", "").replace("`", "")
    return _NUMBER_IN_BRACKETS.sub(r"\1", text) if "(" in text and "/" in text else text


def tokens(text: str) -> list[Token]:
    """Return the tokens of a plain text."""
    return [Token(match[0].lower(), match.start(), match.end()) for match in _TOKEN.finditer(text)]


def _without_latex(text: str) -> str:
    is_money = "\\" not in text and all(piece[:1].isdigit() for piece in text.split("$")[1:])
    text = _WORDS_MACRO.sub(r" \1 ", text)
    text = _MACRO.sub(lambda macro: _MACROS[macro[0]], text)
    text = _POWER.sub(r"^\1", text)
    for _ in range(2):  # a root in a fraction, or a fraction in a root
        text = _ROOT.sub(lambda root: f"√({root[1] or root[2]})", text)
        text = _SHORT_FRACTION.sub(r" \1/\2", text)
        text = _FRACTION.sub(r" (\1)/(\2)", text)
    return text if is_money else text.replace("$", " ") if text.count("$") > 1 else text
