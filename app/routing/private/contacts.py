"""Find e-mail addresses and telephone numbers; leave out those that reach no person, and versions, dates and prices."""

from __future__ import annotations

import re

from app.routing.private.candidate import Candidate, Kind, linear, tail

# --- e-mail -------------------------------------------------------------------------------------

_EMAIL = r"([^\s@\"'<>()\[\]{}:;,|\\]@(?:[\pL\pN][\pL\pN-]*\.)+(?:xn--[a-z0-9-]+|\pL{2,24}))(?:$|[^A-Za-z0-9_-])"
_DISGUISED = (
    r"(?i)([A-Z0-9._%+-] ?[(\[{<] ?(?:at|ät|@) ?[)\]}>] ?[A-Z0-9-]+"
    r"(?: ?[(\[{<] ?(?:dot|punkt|\.) ?[)\]}>] ?|\.)[A-Z]{2,24})\b"
)
_SPELT = (  # `jo at corp dot de`
    r"(?i)([A-Z0-9._-]+ at [A-Z0-9-]+(?: dot [A-Z0-9-]+)? dot"
    r" (?:com|net|org|info|io|co|dev|app|eu|uk|de|fr|ch|at|nl|es|it|pl|ru|cn|jp|in|us))\b"
)
_LOCAL_PART = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]*")
# Addresses of no person: senders that do not read mail, accounts of programs, names of examples.
_IMPERSONAL = linear(
    r"(?i)(?:git|hg|svn|root|no[._-]?reply|do[._-]?not[._-]?reply|mailer-daemon|postmaster|user(?:name)?|you(?:r[._-]?\w*)?"
    r"|name|e?mail|example|sample|test|foo|bar|xxx+|dependabot|github-actions|bot)\d*(?:\[bot\])?"
)
# RFC 2606 and RFC 6761 reserve some of these domains for examples; forms use the others as placeholders.  `.example`
# is not here: synthetic texts place whole companies there, and the addresses of their people count as private.
_EXAMPLE_DOMAIN = linear(
    r"(?i)(?:.*\.)?(?:example\.(?:com|org|net|edu)|.*noreply.*|(?:your|my)?-?(?:domain|company|email|mail|site)\.com"
    r"|foo\.com|bar\.com|test\.com|host\.(?:com|name)|.*\.(?:invalid|localhost|test|local|localdomain|internal|lan))"
)
_FILE_ENDING = linear(  # `icon@2x.png`, `getty@tty1.service`
    r"(?i).*\.(?:png|jpe?g|gif|svg|webp|ico|pdf|js|mjs|ts|tsx|jsx|css|scss|html?|py|rb|go|rs|java|json|ya?ml|toml|md|txt|zip"
    r"|tgz|gz|so|dll|exe|whl|service|socket|timer|target|mount|slice)"
)


def is_email(candidate: Candidate) -> bool:
    """Reject `git@…`, `noreply@…`, `user@host.name:~$`, addresses of examples and names of files."""
    name = tail(_LOCAL_PART, candidate.before) + candidate.text[0]
    domain = candidate.text[2:]
    if _IMPERSONAL.fullmatch(name.lstrip(".")) or _EXAMPLE_DOMAIN.fullmatch(domain) or _FILE_ENDING.fullmatch(domain):
        return False
    if not any(char.isalnum() for char in name):
        return False
    return not re.match(r":[~/]", candidate.after) and not candidate.in_dump()


# --- telephones ---------------------------------------------------------------------------------

_INTERNATIONAL = r"(?:^|[^\w.+-])((?:\+|00|011[ -])\s?\(?[1-9](?:[ ().\-/]{0,3}\d){6,17})"
_NORTH_AMERICA = r"(?:^|[^\w.+/-])((?:1[ .-])?(?:\([2-9]\d{2}\)[ .-]?|[2-9]\d{2}[ .-])[2-9]\d{2}[ .-]\d{4})(?:$|[^\w])"
_TRUNK = r"(?:^|[^\w.+/:-])(\(?0[1-9]\d{0,3}(?:\)[ /-]?|[ ./-])\d{2,8}(?:[ ./-]\d{2,8}){0,4})(?:$|[^\w])"
_BRACKETED = (  # Brazil, Russia
    r"(?:^|[^\w)])((?:8 ?)?\([1-9]\d{1,2}\) ?9?\d{3,4}-\d{2}-?\d{2}|8[ -]9\d\d[ -]\d{3}[ -]\d\d[ -]\d\d)(?:$|[^\w])"
)
_INDIA = r"(?:^|[^\w.+/:-])([6-9]\d{4}[ -]\d{5})(?:$|[^\w])"
_CHINA = r"(?:^|[^A-Za-z0-9_.+/:=-])(1[3-9]\d(?:[ -]\d{4}[ -]\d{4}|\d{8}))(?:$|[^A-Za-z0-9_])"
_CUES = (
    r"tel|tél|telefon|telephone|phone|mobile|mobil|cell|fax|handy|whatsapp|telefoon|téléphone|teléfono|telefono|móvil|celular"
    r"|rufnummer|handynummer|gsm|msisdn|тел|телефон|手机|手机号|电话|電話|携帯|전화"
)
_LABELLED = (
    rf"(?i)(?:{_CUES})(?:[ _-]?(?:no|nr|num|number|nummer|numero|номер|号码|番号|번호))?[\"'.]?"
    r"[ \t:=#\"']{0,5}(\+?\(?\d(?:[ ().\-/]{0,2}\d){6,14})(?:$|[^\w])"
)
# Country codes of ITU-T E.164: of one, two and three digits.
_COUNTRY_CODE = re.compile(
    r"1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"
    r"|2(?:1[12368]|2\d|3\d|4\d|5[0-8]|6\d|9[0179])|3(?:5\d|7\d|8[0-35-79])|42[013]|50\d|59\d|67[02-9]|68\d|69[0-2]"
    r"|80[08]|85[02356]|88\d|96\d|97[0-79]|99[2-8]"
)
_DATE = re.compile(
    r"(?:^|\D)(?:(?:0?[1-9]|[12]\d|3[01])[./ -](?:0?[1-9]|1[0-2])[./ -](?:19|20)\d\d"
    r"|(?:0[1-9]|1[0-2])[./ -](?:19|20)\d\d"
    r"|(?:19|20)\d\d[./ -](?:0?[1-9]|1[0-2])[./ -](?:0?[1-9]|[12]\d|3[01]))(?:\D|$)"
)
_HEX_NUMBER = re.compile(r"[0-9a-fA-F]*\d[0-9a-fA-F]{0,8}")
_MIN_DIGITS, _MAX_DIGITS = 9, 15  # of a number with its country code (ITU-T E.164)
_CHINESE_CONTEXT = 24  # characters before a number


def is_international(candidate: Candidate) -> bool:
    """Check the country code and the number of digits after it.  The match may include the text that follows."""
    groups = re.findall(r"\d+", candidate.text)
    prefix = 3 if groups[0] == "011" else 2 if candidate.text.startswith("00") else 0
    if prefix:
        groups = [group for group in (groups[0][prefix:], *groups[1:]) if group]
        if len(groups) < 2 or not _COUNTRY_CODE.fullmatch(groups[0]):
            return False
    if candidate.in_dump() or re.match(r"[0-9A-Za-z]|[-_/][0-9A-Za-z]", candidate.after):
        groups = groups[:-1]
    digits = ""
    for group in groups:
        digits += group
        if _is_number(digits):
            return not candidate.in_dump()
    return False


def _is_number(digits: str) -> bool:
    """Return True for a country code and as many digits as the numbers of the country have."""
    code = _COUNTRY_CODE.match(digits)
    if code is None:
        return False
    national = digits[code.end() :]
    if code[0] == "1":
        return len(national) == 10 and _is_north_american(national)
    if code[0] == "7":
        return len(national) == 10
    return _MIN_DIGITS <= len(digits) <= _MAX_DIGITS


def _is_north_american(digits: str) -> bool:
    """Reject area codes and exchanges that the numbering plan does not assign."""
    area, exchange, line = digits[:3], digits[3:6], digits[6:]
    if area[0] in "01" or exchange[0] in "01" or area[1] == "9" or area[:2] in ("37", "96") or area[1:] == "11":
        return False
    if area[1:] == exchange[1:] == line[2:] == "00":  # a range of round numbers
        return False
    return exchange[1:] != "11" and area not in ("200", "300", "400")


def is_north_american(candidate: Candidate) -> bool:
    """Check the area code and exchange of a number that is written in groups."""
    text = candidate.text
    digits = re.sub(r"\D", "", text)
    gaps = set(re.findall(r"(?<=\d)[ .-](?=\d)", text.removeprefix("1 ")))
    return len(gaps) == 1 and _is_north_american(digits[-10:]) and is_no_row(candidate)


def is_national(candidate: Candidate) -> bool:
    """Check a number that begins with the trunk prefix 0: its length; no date, and no part of a row of numbers."""
    text = candidate.text
    groups = re.findall(r"\d+", text)
    digits = "".join(groups)
    if (
        not _MIN_DIGITS <= len(digits) <= (12 if digits[1] == "8" else 11)
        or _DATE.search(text)
        or not is_no_row(candidate)
    ):
        return False
    if re.fullmatch(r"\d{5}-\d{4}", text):  # a ZIP code of the north-eastern United States
        return False
    if "." in text and {len(group) for group in groups[("/" in text) :]} != {2}:
        return False
    return [int(group) for group in groups] != list(range(int(groups[0]), int(groups[0]) + len(groups)))


def is_no_row(candidate: Candidate) -> bool:
    """Return True unless more numbers follow to the left or to the right."""
    if any(_HEX_NUMBER.fullmatch(word) for word in candidate.neighbours):
        return False
    if re.search(r"\d[./:-]\Z|\d\)\s\Z", candidate.before[-3:]):
        return False
    return not re.match(r"[./:-]\d|[-/][A-Za-z]|%", candidate.after) and not candidate.in_dump()


def is_chinese(candidate: Candidate) -> bool:
    """Accept eleven digits without a gap only in Chinese text, or after a word for telephone."""
    context = candidate.before[-_CHINESE_CONTEXT:]
    if re.search(r"\D", candidate.text):
        return is_no_row(candidate)
    return bool(
        re.search(r"[\u3400-\u9fff：]", context + candidate.after[:2]) or re.search(rf"(?i)(?:{_CUES})", context)
    )


def is_labelled(candidate: Candidate) -> bool:
    """Check a number after a word for telephone."""
    digits = re.sub(r"\D", "", candidate.text)
    if _DATE.search(candidate.text) or re.fullmatch(r"\d{1,3}(?:\.\d{1,3}){3}", candidate.text):
        return False
    return 7 <= len(digits) <= _MAX_DIGITS and len(set(digits)) > 2 and not re.match(r"\.\d", candidate.after)


KINDS = (
    Kind("email", "address", _EMAIL, is_email),
    Kind("email", "disguised address", _DISGUISED),
    Kind("email", "spelt address", _SPELT),
    Kind("phone", "international", _INTERNATIONAL, is_international, overlaps=True),
    Kind("phone", "North America", _NORTH_AMERICA, is_north_american, overlaps=True),
    Kind("phone", "trunk prefix", _TRUNK, is_national, overlaps=True),
    Kind("phone", "area in brackets", _BRACKETED, is_no_row, overlaps=True),
    Kind("phone", "India", _INDIA, is_no_row, overlaps=True),
    Kind("phone", "China", _CHINA, is_chinese, overlaps=True),
    Kind("phone", "labelled", _LABELLED, is_labelled),
)
