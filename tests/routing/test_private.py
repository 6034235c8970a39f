"""Detectors by the thousand: random keys of every kind, in every surrounding; long texts that hold nothing private."""

from __future__ import annotations

import importlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from app.policy.schema import SensitivitySchema
from app.routing.detect import DETECTORS, RECOMMENDED, Detectors, PatternError, expand
from app.routing.private import national_ids, secrets
from app.routing.private.randomness import is_placeholder, is_random, is_wordy
from app.types import SensitivityRules
from tests.routing import samples

ALL = Detectors(SensitivityRules(DETECTORS))
SECRETS = {"api_key", "private_key", "jwt", "connection_string", "authorization", "password"}
KEYS_ONLY = Detectors(SensitivityRules(tuple(sorted(SECRETS))))
SHAPES = [kind for kind in secrets.KINDS if kind.token]
KEYS = 60  # of each kind; benchmarks/private.py makes 20,000


def find(name: str, text: str) -> str | None:
    return Detectors(SensitivityRules((name,))).find({"text": text})


def key_of(kind: Any, rng: random.Random) -> str:
    return samples.text_of(kind.pattern.removeprefix(secrets.WORD_START), rng)


# --- secrets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.name)
def test_random_keys_of_every_kind_are_found(kind: Any) -> None:
    rng = random.Random(kind.name)
    missed = [key for _ in range(KEYS) if ALL.find({"a": f"it is {(key := key_of(kind, rng))} here"}) not in SECRETS]
    assert len(missed) <= 1, missed


@pytest.mark.parametrize("around", samples.AROUND.values(), ids=samples.AROUND)
def test_keys_are_found_wherever_they_stand(around: Any) -> None:
    rng = random.Random(7)
    for kind in SHAPES:
        text = around(key_of(kind, rng))
        assert KEYS_ONLY.find({"a": text}), text
        assert KEYS_ONLY.find({"arguments": json.dumps({"text": text})}), text


@pytest.mark.parametrize("name", samples.NAMES)
@pytest.mark.parametrize("alphabet", [samples.ALNUM, samples.HEX], ids=["letters", "hexadecimal"])
def test_a_random_value_behind_a_name_is_found(name: str, alphabet: str) -> None:
    rng = random.Random(name)
    missed = [
        text
        for _ in range(50)
        if ALL.find({"a": (text := name.format("".join(rng.choices(alphabet, k=40))))}) not in SECRETS
    ]
    assert not missed or (alphabet == samples.HEX and "token is" in name), missed[:3]  # as well the hash of a commit


def test_every_line_of_the_data_file_has_a_source() -> None:
    text = Path(secrets.__file__).with_name("secrets.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and line[0] not in "#["]
    assert len(lines) == len(secrets.KINDS) > 240
    assert all(len(secrets.columns(line)) == 4 for line in lines)
    assert len({(kind.detector, kind.name) for kind in secrets.KINDS}) == len(lines)
    assert {kind.detector for kind in secrets.KINDS} == SECRETS


@pytest.mark.parametrize(
    "value",
    [
        "settings_openai_api_key", "process.env.OPENAI_API_KEY", "getApiKeyFromVaultService", "your-api-key-here",
        "com.example.auth.TokenProvider", "organization_membership_id", "AbstractTokenFactoryBean", "http_status_retry",
    ],
)  # fmt: skip
def test_identifiers_read_like_words(value: str) -> None:
    assert is_wordy(value) and not is_random(value)


@pytest.mark.parametrize(
    "value",
    [
        "x" * 30,
        "0" * 32,
        "1234567890abcdef" * 2,
        "abc" * 9,
        "AKIAIOSFODNN7EXAMPLE",
        "your-own-key-123",
        "sk-fake-9f8e7d6c",
    ],
)
def test_placeholders(value: str) -> None:
    assert is_placeholder(value)


def test_random_values_are_neither() -> None:
    rng = random.Random(3)
    for alphabet, length in ((samples.ALNUM, 24), (samples.URL_SAFE, 32), (samples.HEX, 32)):
        values = ["".join(rng.choices(alphabet, k=length)) for _ in range(3000)]
        assert sum(not is_random(value) for value in values) <= 3


# --- what is no finding -------------------------------------------------------------------------


@pytest.mark.parametrize("name", samples.BULK)
def test_bulk_text_is_not_private(name: str) -> None:
    for seed in range(3):
        text = samples.bulk(name, 100_000, random.Random(f"{name} {seed}"))
        assert ALL.find({"messages": [{"role": "tool", "content": text}]}) is None


@pytest.mark.parametrize("name", samples.BULK)
def test_a_key_in_bulk_text_is_found(name: str) -> None:
    rng = random.Random(name)
    text = samples.bulk(name, 20_000, rng)
    key = "ghp_" + "".join(rng.choices(samples.ALNUM, k=36))
    assert ALL.find({"a": f"{text}\n{key}\n{text}"}) == "api_key"


# --- names of detectors -------------------------------------------------------------------------


def test_recommended_is_a_list_of_detectors() -> None:
    assert expand(("recommended",)) == RECOMMENDED
    assert expand(("email", "recommended", "jwt")) == ("email", *RECOMMENDED)
    assert set(RECOMMENDED) < set(DETECTORS)
    both = Detectors(SensitivityRules(("recommended", "email")))
    assert both.find({"a": "4111 1111 1111 1111"}) == "credit_card"
    assert both.find({"a": "jo@corp.example"}) == "email"


@pytest.mark.parametrize(
    "value, normal",
    [
        ("recommended", ("recommended",)),
        (["recommended", "email"], ("recommended", "email")),
        (["id_de", "iban"], ("id_de", "iban")),
        ([], ()),
    ],
)
def test_names_in_a_policy(value: Any, normal: tuple[str, ...]) -> None:
    assert SensitivitySchema().load({"detect": value})["detect"] == normal


@pytest.mark.parametrize(
    "value, problem",
    [
        ("email", "must be `recommended`, or a list with any of recommended, api_key"),
        (["mail"], "'mail' is not one of recommended, api_key"),
        (["id_xx"], "or a national id such as id_de"),
        ([1], "1 is not one of recommended"),
    ],
)
def test_names_that_a_policy_must_not_have(value: Any, problem: str) -> None:
    assert problem in str(SensitivitySchema().validate({"detect": value}))


# --- national ids -------------------------------------------------------------------------------

IDS = {
    "id_at": "SVNR 1237 010180", "id_be": "Rijksregisternummer 85.07.30-033.28", "id_br": "CPF: 390.533.447-05",
    "id_ca": "SIN 123-456-782", "id_ch": "756.9217.0769.85", "id_cl": "RUT 12.531.909-2",
    "id_cn": "身份证号 11010519491231002X", "id_de": "Steuer-ID: 36 574 261 809", "id_dk": "CPR 211062-5629",
    "id_es": "DNI 54362315K", "id_fi": "131052-308T", "id_fr": "2 95 10 99 126 111 93",
    "id_gb": "NHS number 943 476 5919",
    "id_in": "Aadhaar 2341 2341 2346", "id_it": "Codice fiscale RSSMRA85T10A562S", "id_kr": "971013-9019902",
    "id_nl": "BSN: 111222333", "id_no": "fødselsnummer 151086 95088", "id_pl": "PESEL 44051401359",
    "id_se": "personnummer 811228-9874", "id_tr": "TC kimlik no: 17291716060", "id_za": "ID number 7503305044089",
}  # fmt: skip


@pytest.mark.parametrize("name", IDS)
def test_national_ids(name: str) -> None:
    text = IDS[name]
    last = next(char for char in reversed(text) if char.isdigit())
    place = text.rindex(last)
    wrong = text[:place] + str((int(last) + 1) % 10) + text[place + 1 :]
    assert find(name, text) == name
    assert find(name, wrong) is None or name == "id_dk"  # which has had no check digit since 2007


@pytest.mark.parametrize("name", national_ids.NAMES)
def test_national_ids_are_no_alarm_in_bulk_text(name: str) -> None:
    only = Detectors(SensitivityRules((name,)))
    assert [bulk for bulk in samples.BULK if only.find({"a": samples.bulk(bulk, 30_000, random.Random(1))})] == []


def test_without_the_package_a_policy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    message = "id_de needs python-stdnum: pip install -r requirements-ids.txt"
    assert SensitivitySchema().validate({"detect": ["id_de"]}) == {"detect": {0: [message]}}
    with pytest.raises(PatternError, match="id_de needs python-stdnum"):
        Detectors(SensitivityRules(("id_de",)))


# --- cost ---------------------------------------------------------------------------------------

HARD = {
    "names": "api_key=", "names and values": "token: abcdefghijklmnop_", "key prefixes": "sk-ant-api03-", "xs": "x",
    "passwords": "password=pass", "password words": "pass", "addresses": "://a:b", "at signs": "a@b.c.d.",
    "quotes": "password='", "headers": "authorization: bearer ", "cookies": "cookie: session=", "curl": "curl -u ",
    "groups": "1234 ", "hexadecimal": "0f1e2d3c", "said": "use the token ", "dots": "password: a.b.c.d.e.f1",
    "percent": "%20%40", "entities": "&#64;", "jwt": "eyJaaaaaaaa.", "trunk": "0123 45 ",
    "lines of base64": "A" * 76 + "\n",
    "login": "login a password ", "backslash quotes": '\\"key\\":\\"',
}  # fmt: skip


@pytest.mark.parametrize("piece", HARD.values(), ids=HARD)
def test_no_text_makes_the_work_of_a_check_grow(piece: str) -> None:
    """RE2 is linear; the checks look at a few hundred bytes around a candidate: counted are their steps."""
    turns: list[int] = []
    ALL.find({"a": piece * (200_000 // len(piece))}, pause=lambda: turns.append(1))
    assert len(turns) <= 200_000 // 500
