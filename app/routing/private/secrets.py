"""Load the kinds of secrets from secrets.txt, and define the checks that its lines name."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path

from app.routing.private.candidate import Candidate, Check, Kind, linear, tail
from app.routing.private.randomness import (
    is_digest_or_id,
    is_mixed,
    is_placeholder,
    is_random,
    is_scrambled,
    is_wordy,
)

_DATA = Path(__file__).with_name("secrets.txt")
_COLUMNS = re.compile(r" {2,}")
WORD_START = r"(?:^|[^A-Za-z0-9])"
_NAME = re.compile(r"[\w.-]*")
_WORDS = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![a-z])|\d+")  # of camelCase, snake_case, kebab-case

# A name with one of these words has no secret as its value, though the value may be random.
_HARMLESS_TEXT = """
public pub primary foreign partition sort cache cached index page next continuation cursor sync delta author authors
tokenizer tokenized keyword keywords keyboard kid object bucket path paths file filename name label column row field
etag hash digest checksum fingerprint thumbprint idempotency dedup csrf xsrf nonce salt sha sha256 sha512 md5 expiry
expires type uri endpoint count limit max min size length version site algorithm alg commit integrity encoding
pagination starting start locale translation translations event lookup
"""
_HARMLESS = frozenset(_HARMLESS_TEXT.split())
_STRONG_TEXT = """
api apikey secret secrets token tokens password credential credentials creds auth access private signing encryption
bearer webhook client passcode hmac license licence authtoken subscription account master service admin app
mistral cohere deepgram assemblyai eleven elevenlabs datadog pinecone weaviate qdrant algolia fastly mailgun twilio
vonage openai azure groq together fireworks newrelic pagerduty heroku linode hetzner vultr ovh
wandb comet airtable segment
"""
_STRONG = frozenset(_STRONG_TEXT.split())
_PASSWORD_WORD = linear(
    r"(?i).*(?:passw(?:or)?t?d|passwd|passphrase|passwort|kennwort|passe|jelszó|salasana|şifre|contraseña|contrasena|senha"
    r"|wachtwoord|lösenord|hasło|heslo|parola|пароль|密码|口令|パスワード|비밀번호|pwd|psk|key|by|[a-z]{0,8}pass)s?|pw|p|w"
)
_NO_PASSWORD_TEXT = """
hash hashed hasher field input label reset forgot length policy policies rule rules regex pattern error errors file
path prompt hint strength url uri id type manager encoder protected required less age expires changed help text
validator validators form view page count attempts message enabled callback template
bypass compass trespass passes
"""
_NO_PASSWORD = frozenset(_NO_PASSWORD_TEXT.split())
# Examples of passwords: one of these words or several in a row, with a number after them.
_EXAMPLE_PASSWORD = linear(
    r"(?i)(?:password|passwd|passwort|passphrase|pass|pwd|pw|secret|sekret|geheim|test(?:ing)?|admin|administrator|user(?:name)?"
    r"|guest|root|demo|foo|bar|baz|change|me|changeit|qwerty|letmein|abc|example|sample|dummy|fake|my|the|your|new|old"
    r"|some|any|this|is|a|not|real|string|str|hash|value|none|null|nil|true|false|undefined|empty|postgres|mysql|redis"
    r"|mongo|rabbitmq|default|hidden|redacted|masked|removed|token|port|here|db|database|account|login|name|x+|\*+|\.+|…|-|_)+"
    r"\W?\d{0,6}\W{0,2}"
)
_LEET = str.maketrans("@0$35", "aoses")
_CODE = linear(  # an expression, a reference or a type of a program
    r"(?i)[$<{%\[(&]|[\w.]+[(\[]|.*(?:\$\{|\{\{|\(\)|=>|->|::|\|\||&&)|(?:os|self|this|process|config|settings|env|args|req|request"
    r"|ctx|options|opts|props|params|data|form|user|secrets|vars?|values|Deno|import\.meta)[.\[]"
    r"|(?:utf-?8|base64|sha-?\d+|md5|argon2\w*|bcrypt\w*|scrypt|u?int\d+|float\d+|varchar\W?\d*)\b"
)
_ALGORITHM = re.compile(r"(?:AWS4|HMAC|RSA|ECDSA)[-_A-Z]*SHA\d", re.IGNORECASE)
_ROTATED = re.compile(r"rotat|revok|expire|leak|widerruf|tausch", re.IGNORECASE)
_SECRET_CUE = re.compile(  # not "use" or "key", which also stand before harmless hashes and ids
    r"secret|credential|zugang|schlüssel|contraseña|clave|llave|clé|chave|sleutel|klucz|ключ|密|口令|令牌|鍵|キー",
    re.IGNORECASE,
)
_DIGESTS = tuple(f"{name}{sign}" for name in ("sha1", "sha256", "sha384", "sha512", "h1", "md5") for sign in "-:=")
_WORD_INSIDE = re.compile(r"[A-Za-z][a-z]{4,}")


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(name)]


def is_key(candidate: Candidate) -> bool:
    """Check `shape`: the value is no placeholder and no part of a longer encoded text."""
    if candidate.after[:1].isascii() and candidate.after[:1].isalnum():  # longer than the keys of this kind
        return False
    if candidate.before.endswith(_DIGESTS):
        return False
    return not is_placeholder(candidate.parts[-1]) and not candidate.in_encoded_text()


def is_random_key(candidate: Candidate) -> bool:
    """Check `random`: as `shape`, and the value does not consist of words."""
    value = candidate.parts[-1]
    return is_random(value) and is_key(candidate)


def is_assigned(candidate: Candidate) -> bool:
    """Check `assigned`: a value after a name.  The name is that of a secret, and the value is random and no code."""
    name, value = candidate.parts[0], candidate.parts[-1].rstrip(".=")
    words = _words(tail(_NAME, candidate.before) + name)
    if not words or _HARMLESS & set(words) or words[-1] in ("id", "ids") or "keyid" in words:
        return False
    if (
        len(value) < 16
        or _ALGORITHM.match(value)
        or candidate.after[:1] in ("(", "[")
        or value.startswith(("http", "data"))
    ):
        return False
    if not _STRONG & {*words, *(word.removesuffix("key") for word in words)} and is_digest_or_id(value):
        return False
    dotted = value.split(".")
    if len(dotted) > 1 and all(part.isidentifier() for part in dotted) and len(value) < 12 * len(dotted):
        return False
    return is_random(value)


def is_in_sentence(candidate: Candidate) -> bool:
    """Check `sentence`: a random value in a sentence, after a word such as "use", "key" or "password"."""
    value = candidate.parts[-1]
    if candidate.after[:1] in ("(", "[", ".", "/", "@") and candidate.after[1:2].isalnum():
        return False
    cue = _ROTATED.search(candidate.after[:80]) or _SECRET_CUE.search(candidate.text[: -len(value)])
    if cue and is_random(value) and "/" not in value[:1]:
        return True
    for word in _WORD_INSIDE.findall(value):
        if is_wordy(word * 3):
            return False
    return is_mixed(value) and not is_digest_or_id(value) and not candidate.in_encoded_text()


def is_example_password(value: str) -> bool:
    """Return True for `changeme`, `my-secret-password1`, `xxx`, `${PASSWORD}`, `P@ssw0rd!`."""
    return bool(
        _CODE.match(value) or _EXAMPLE_PASSWORD.fullmatch(value) or _EXAMPLE_PASSWORD.fullmatch(value.translate(_LEET))
    )


def is_password(candidate: Candidate) -> bool:
    """Check `password`: a value after a word for password; it mixes letters with digits or signs, and is no example."""
    name, value = candidate.parts[0], candidate.parts[-1]
    words = _words(tail(_NAME, candidate.before) + name)
    last = [word for word in words if not word.isdigit()][-2:]
    if _NO_PASSWORD & set(words) or not any(_PASSWORD_WORD.fullmatch(word) for word in last):
        return False
    if len(last) == 2 and last[0] in ("pass", "pw", "p", "w") and not _PASSWORD_WORD.fullmatch(last[1]):
        return False
    quoted = value[0] in "\"'"
    value = value.strip("\"'") if quoted else re.split(r"[,;)}\]&\\<]", value)[0].rstrip(".:")
    if len(value) < 6 or is_example_password(value) or value.startswith(("http://", "https://", "/")):
        return False
    if not quoted and (is_wordy(value) or (value.count(".") and all(map(str.isidentifier, value.split("."))))):
        return False
    if " " in value and not re.search(r"\d", value):
        return False
    letters, digits = re.search(r"[^\W\d_]", value), re.search(r"\d", value)
    signs = re.search(r"[!@#$%^&*?+~]", value[1:])
    return (bool(letters and (digits or signs)) or is_scrambled(value)) and not is_placeholder(value)


def is_certain(candidate: Candidate) -> bool:
    """Check `certain`: a value at a place where only a password can stand, that is no example."""
    value = candidate.parts[-1].strip("\"'").rstrip(",")
    return len(value) >= 4 and not is_example_password(value) and len(set(value)) > 2


def is_account(candidate: Candidate) -> bool:
    """Check `account`: a name and a password with a colon between them, as in a URL."""
    user, password = candidate.parts[0] if len(candidate.parts) > 1 else "", candidate.parts[-1]
    if len(password) < 3 or password.lower() == user.lower() or candidate.after.startswith("ha256:"):
        return False
    if re.match(r"\d{2,5}(?:[?#&,]|$)", password) or is_example_password(password):
        return False
    return re.match(r"[${<%\[]", user) is None and not re.fullmatch(r"[*x.…•]+", password, re.IGNORECASE)


def is_bearer(candidate: Candidate) -> bool:
    """Check `bearer`: a random value in a header."""
    value = candidate.parts[-1].rstrip(".")
    if re.search(r"(?i)basic\s", candidate.text):
        return is_basic(candidate)
    words = _words(tail(_NAME, candidate.before) + candidate.text[: -len(value)])
    if _HARMLESS & set(words) or candidate.after[:1] in ("(", "[") or _ALGORITHM.match(value):
        return False
    return is_random(value) and not (_words(candidate.text)[0] == "token" and is_digest_or_id(value))


def is_basic(candidate: Candidate) -> bool:
    """Check `basic`: base64 of a name and a password."""
    encoded = candidate.parts[-1].rstrip("=")
    try:
        user, colon, password = base64.b64decode(encoded + "=" * (-len(encoded) % 4)).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return False
    return bool(colon) and len(password) > 2 and password != user and not is_example_password(password)


def is_jwk(candidate: Candidate) -> bool:
    """Check `jwk`: the private member `d` of a JSON Web Key."""
    return '"kty"' in candidate.before + candidate.after and is_key(candidate)


_CHECKS: Mapping[str, Check | None] = {
    "exact": None,
    "shape": is_key,
    "random": is_random_key,
    "assigned": is_assigned,
    "sentence": is_in_sentence,
    "password": is_password,
    "certain": is_certain,
    "account": is_account,
    "bearer": is_bearer,
    "basic": is_basic,
    "jwk": is_jwk,
}


def columns(line: str) -> list[str]:
    """Return the name, check, pattern and source of a line."""
    return _COLUMNS.split(line, maxsplit=3)


def read(text: str) -> tuple[Kind, ...]:
    """Return the kinds of a text in the format of secrets.txt."""
    kinds = []
    detector = ""
    for line in text.splitlines():
        if line.startswith("["):
            detector = line.strip("[]")
        elif line and not line.startswith("#"):
            name, check, pattern, _source = columns(line)
            token = check in ("shape", "random")
            start = WORD_START if token else ""
            kinds.append(Kind(detector, name, f"{start}({pattern})", _CHECKS[check], token=token))
    return tuple(kinds)


KINDS = read(_DATA.read_text(encoding="utf-8"))
