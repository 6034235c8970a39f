"""Find card, account and social security numbers: groups of digits with valid check digits, in a fitting context."""

from __future__ import annotations

import re
from collections.abc import Iterator

from app.routing.private.candidate import Candidate, Kind, tail

# Between groups: up to three of blank, hyphen, dot, slash and tab; or a line break, one group a line.
_GAP = r"(?:[ ./_\t-]{1,3}|[ \t]*\r?\n[ \t]*)"
_CARD = (
    rf"(?:^|[^0-9])([2-6]\d{{3}}(?:(?:{_GAP}?\d{{4}}){{2,3}}{_GAP}?\d{{1,4}}|{_GAP}?\d{{6}}{_GAP}?\d{{4,5}})"
    rf"|(?:50|5[6-9]|6\d)\d{{4}}{_GAP}\d{{13}})(?:$|[^0-9])"
)
_IBAN = rf"(?i)(?:^|[^A-Z0-9]|IBAN)([A-Z]{{2}}\d{{2}}(?:{_GAP}?[A-Z0-9]{{4}}){{2,7}}(?:{_GAP}?[A-Z0-9]{{1,3}})?)"
_SSN = r"(?:^|[^0-9A-Za-z])(\d{3}(?:-\d{2}-|[ \t]\d{2}[ \t])\d{4})(?:$|[^0-9A-Za-z])"
_SSN_NAMED = (
    r"(?i)(?:\bssn|social.security(?:.(?:number|no|nr)\.?)?)[\"' \t:=#]{1,6}(?:is )?(\d{3}[ .-]?\d{2}[ .-]?\d{4})\b"
)

# Issuer prefixes and lengths (ISO/IEC 7812): Visa, Mastercard, American Express, Diners Club, JCB, Discover, UnionPay,
# Maestro, Mir.
_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"
    r"|(?:5[1-5]\d{2}|222[1-9]|22[3-9]\d|2[3-6]\d{2}|27[01]\d|2720|220[0-4])\d{12}"
    r"|3[47]\d{13}|3(?:0[0-5]|095|[689]\d)\d{11}|3(?:0[0-5]|095|[689]\d)\d{13}"
    r"|35(?:2[89]|[3-8]\d)\d{12}(?:\d{3})?"
    r"|6(?:011|4[4-9]\d|5\d{2}|2\d{2})\d{12}(?:\d{3})?"
    r"|(?:50|5[6-9]|6\d)(?:\d{14}|\d{16}|\d{17})"
)
_GROUPINGS = {
    (4, 4, 4, 4),
    (4, 6, 5),
    (4, 6, 4),
    (4, 4, 4, 1),
    (4, 4, 4, 2),
    (4, 4, 4, 3),
    (4, 4, 4, 4, 2),
    (4, 4, 4, 4, 3),
    (6, 13),
}
_DOUBLED = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))
_VALUE = bytes.maketrans(b"0123456789", bytes(range(10)))
_RUN = re.compile(r"[A-Za-z0-9]*")
_HEX_GROUP = re.compile(r"(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{4}", re.IGNORECASE)
_GROUPS = re.compile(r"(?:\s{1,3}\d{4}(?!\d))*")
_MAX_GROUPS = 8  # groups of four in a row: two cards; more are a table of numbers

# The structure of the number after country and check digits, from the registry of ISO 13616 (release 101): digits (n),
# letters (a), both (c).
_IBANS = """
AD8n12c AE19n AL8n16c AT16n AZ4a20c BA16n BE12n BG4a6n8c BH4a14c BI23n BR23n1a1c BY4c20n CH5n12c CR18n CY8n16c CZ20n
DE18n DJ23n DK14n DO4c20n EE16n EG25n ES20n FI14n FK2a12n FO14n FR10n11c2n GB4a14n GE2a16n GI4a15c GL14n GR7n16c GT24c
HN4a20n HR17n HU24n IE4a14n IL19n IQ4a15n IS22n IT1a10n12c JO4a4n18c KW4a22c KZ3n13c LB4n20c LC4a24c LI5n12c LT16n
LU3n13c LV4a13c LY21n MC10n11c2n MD20c ME18n MK3n10c2n MN16n MR23n MT4a5n18c MU4a19n3a NI4a20n NL4a10n NO11n OM3n16c
PK4a16c PL24n PS4a21c PT21n QA4a21c RO4a16c RS18n RU14n15c SA2n18c SC4a20n3a SD14n SE20n SI15n SK20n SM1a10n12c SO19n
ST21n SV4a20n TL19n TN20n TR6n16c UA6n19c VA18n VG4a16n XK16n YE4a4n18c
"""
_CLASSES = {"n": "[0-9]", "a": "[A-Z]", "c": "[A-Z0-9]"}


def _structure(entry: str) -> tuple[int, re.Pattern[str]]:
    """Return the length of a whole IBAN and the pattern of its part after the check digits."""
    parts = re.findall(r"(\d+)([nac])", entry[2:])
    pattern = "".join(f"{_CLASSES[kind]}{{{count}}}" for count, kind in parts)
    return 4 + sum(int(count) for count, _ in parts), re.compile(pattern)


_STRUCTURES = {entry[:2]: _structure(entry) for entry in _IBANS.split()}


def luhn(digits: bytes) -> bool:
    """Return True when the last digit is the check digit by Luhn's method."""
    odd, even = digits[-1::-2].translate(_VALUE), digits[-2::-2].translate(_DOUBLED)
    return (sum(odd) + sum(even)) % 10 == 0


def is_card(candidate: Candidate) -> bool:
    """Check issuer, length, Luhn's digit and context.  The match may include a date after the number."""
    return any(_is_card(reading) for reading in _readings(candidate))


def _readings(candidate: Candidate) -> Iterator[Candidate]:
    """Yield the candidate, then the candidate without its last group, then without its last two."""
    yield candidate
    begin = candidate.spans[0][0]
    for gap in list(re.finditer(r"\D+", candidate.text))[:-3:-1]:
        yield Candidate(candidate.raw, ((begin, begin + gap.start()),))


def _is_card(candidate: Candidate) -> bool:
    digits = re.sub(r"\D", "", candidate.text)
    if not luhn(digits.encode()) or not _ISSUERS.fullmatch(digits):
        return False
    if digits[2:] == digits[:-2]:  # 4242…, a number of examples
        return False
    gaps = set(re.findall(r"\D+", candidate.text))
    groups = tuple(len(group) for group in re.findall(r"\d+", candidate.text))
    if len({_gap_class(gap) for gap in gaps}) > 1 or (gaps and groups not in _GROUPINGS):
        return False
    return _stands_alone(candidate, bool(gaps & {"\n", "\r\n", "\t"})) and not candidate.in_dump()


def _gap_class(gap: str) -> str:
    return "\n" if "\n" in gap else gap.strip() or " "


def _stands_alone(candidate: Candidate, in_column: bool) -> bool:
    """Return False when the digits continue: in hexadecimal, a decimal fraction, a longer number or row of groups."""
    before, after = candidate.before, candidate.after
    if re.search(r"[0-9A-Za-z][./_+=-]\Z|-\Z|/\Z", before) and not before.endswith("="):
        return False
    if re.match(r"[-/_][0-9A-Za-z]|\.\d|[*^]", after):
        return False
    for run in (tail(_RUN, before), tail(_RUN, after[::-1])):
        if run and not re.search(r"[g-zG-Z]", run):
            return False
    if any(_HEX_GROUP.fullmatch(word) for word in candidate.neighbours):
        return False
    groups = sum(len(tail(_GROUPS, side).split()) for side in (before, after[::-1]))
    return groups == 0 if in_column else groups + 4 <= _MAX_GROUPS


def is_iban(candidate: Candidate) -> bool:
    """Check the country's structure and the digits modulo 97.  The match may include a word after the number."""
    text = candidate.text
    length, structure = _STRUCTURES.get(text[:2].upper(), (0, None))
    indexes = [index for index, char in enumerate(text) if char.isalnum()][:length]
    if structure is None or len(indexes) < length:
        return False
    characters = "".join(text[index] for index in indexes)
    iban = characters.upper()
    if characters not in (iban, iban.lower()) and text[:2].isupper():
        return False
    if not structure.fullmatch(iban[4:]):
        return False
    if int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4])) % 97 != 1:
        return False
    rest = (text[indexes[-1] + 1 :] + candidate.after)[:8]
    return not re.match(r"(?!BIC|SWIFT)[A-Z0-9]|[+/=]", rest, re.IGNORECASE) and not candidate.in_dump()


def is_ssn(candidate: Candidate) -> bool:
    """Reject numbers that were never issued (Social Security Administration): area 000, 666 and from 900 on, group 00,
    serial 0000, the two numbers that advertisements made void, and 111-22-3333 of examples."""
    digits = re.sub(r"\D", "", candidate.text)
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    if area in ("000", "666") or area >= "900" or group == "00" or serial == "0000":
        return False
    if digits in ("078051120", "219099999") or all(len(set(part)) == 1 for part in (area, group, serial)):
        return False
    before, after = candidate.before[-2:], candidate.after[:2]
    if "-" not in candidate.text and (re.fullmatch(r"\d[ \t]", before) or re.match(r"[ \t]\d", after)):
        return False  # a row of numbers
    if re.search(r"[0-9A-Za-z][-./_+]\Z|[-+/]\Z", before) or re.match(r"[-/_+][0-9A-Za-z]|\.\d", after):
        return False
    return not candidate.in_dump()


KINDS = (
    Kind("credit_card", "card", _CARD, is_card, overlaps=True),
    Kind("iban", "iban", _IBAN, is_iban, overlaps=True),
    Kind("us_ssn", "ssn", _SSN, is_ssn, overlaps=True),
    Kind("us_ssn", "named ssn", _SSN_NAMED, is_ssn),
)
