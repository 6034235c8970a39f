"""National identity, tax and health numbers by country.  python-stdnum knows their check digits: an optional extra.

Numbers of a strong form (with letters, a date of birth, two check digits) are looked for alone.  The others look like
any number of their length: they count behind a word that names them only.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.routing.private.candidate import Candidate, Kind

_BEFORE_NUMBER = r"[\"' \t:=#.]{0,5}(?:is |ist |es |est |no\.? |nr\.? |number )?[\"' ]?"
_GAPS = re.compile(r"[ ./-]")


class NotInstalled(Exception):
    """A detector of this module is asked for, and python-stdnum is not there."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} needs python-stdnum: pip install -r requirements-ids.txt")


@dataclass(frozen=True, slots=True)
class _Number:
    """One country's number: the module of python-stdnum that checks it, its form, words that name it."""

    module: str
    form: str
    words: str = ""  # "" = the form is strong enough alone
    about: str = ""


_NUMBERS: Mapping[str, _Number] = {
    "id_ar": _Number("ar.cuit", r"\d{2}-?\d{8}-?\d", r"cuit|cuil", "CUIT, CUIL"),
    "id_at": _Number("at.vnr", r"\d{4} ?\d{6}", r"svnr|sv-?nummer|sozialversicherungsnummer|versicherungsnummer", "Versicherungsnummer"),
    "id_au": _Number("au.tfn", r"\d{3} ?\d{3} ?\d{2,3}", r"tfn|tax file number", "tax file number"),
    "id_be": _Number("be.nn", r"\d{2}\.?\d{2}\.?\d{2}-?\d{3}\.?\d{2}", r"rijksregister\w*|registre national|national number|insz|niss", "Rijksregisternummer"),
    "id_bg": _Number("bg.egn", r"\d{10}", r"egn|егн", "ЕГН"),
    "id_br": _Number("br.cpf", r"\d{3}\.\d{3}\.\d{3}-\d{2}|\d{11}", r"cpf", "CPF"),
    "id_ca": _Number("ca.sin", r"\d{3}[ -]?\d{3}[ -]?\d{3}", r"sin|social insurance(?: number)?|nas", "social insurance number"),
    "id_ch": _Number("ch.ssn", r"756\.?\d{4}\.?\d{4}\.?\d{2}", "", "AHV-Nummer"),
    "id_cl": _Number("cl.rut", r"\d{1,2}\.?\d{3}\.?\d{3}-[\dkK]", r"rut|run", "RUT"),
    "id_cn": _Number("cn.ric", r"\d{17}[\dXx]", "", "居民身份证"),
    "id_cz": _Number("cz.rc", r"\d{6}/?\d{3,4}", r"rodné číslo|rodne cislo|rč", "rodné číslo"),
    "id_de": _Number("de.idnr", r"\d{2} ?\d{3} ?\d{3} ?\d{3}", r"steuer-?id\w*|idnr|identifikationsnummer|steuerliche id\w*|tin", "Steuer-Identifikationsnummer"),
    "id_dk": _Number("dk.cpr", r"\d{6}-?\d{4}", r"cpr(?:-?n\w+)?|personnummer", "CPR-nummer"),
    "id_ee": _Number("ee.ik", r"[1-6]\d{10}", r"isikukood", "isikukood"),
    "id_es": _Number("es.nif", r"[XYZKLMxyzklm]?\d{7,8}[ -]?[A-Za-z]", "", "DNI, NIE"),
    "id_fi": _Number("fi.hetu", r"\d{6}[-+A-FU-Ya-fu-y]\d{3}[0-9A-Ya-y]", "", "henkilötunnus"),
    "id_fr": _Number("fr.nir", r"[12] ?\d{2} ?\d{2} ?\d[0-9AB] ?\d{3} ?\d{3} ?\d{2}", "", "numéro de sécurité sociale"),
    "id_gb": _Number("gb.nhs", r"\d{3} ?-?\d{3} ?-?\d{4}", r"nhs(?: number)?", "NHS number"),
    "id_gr": _Number("gr.amka", r"\d{11}", r"amka|αμκα", "ΑΜΚΑ"),
    "id_hr": _Number("hr.oib", r"\d{11}", r"oib", "OIB"),
    "id_ie": _Number("ie.pps", r"\d{7}[A-W][A-IW]?", r"pps\w*", "PPS number"),
    "id_il": _Number("il.idnr", r"\d{9}", r"teudat zehut|תעודת זהות|ת\.ז", "מספר זהות"),
    "id_in": _Number("in_.aadhaar", r"[2-9]\d{3}[ -]?\d{4}[ -]?\d{4}", r"aadhaar|aadhar|uidai|आधार", "Aadhaar"),
    "id_it": _Number("it.codicefiscale", r"[A-Za-z]{6}\d{2}[A-EHLMPR-Ta-ehlmpr-t]\d{2}[A-Za-z]\d{3}[A-Za-z]", "", "codice fiscale"),
    "id_jp": _Number("jp.in_", r"\d{4}[ -]?\d{4}[ -]?\d{4}", r"マイナンバー|個人番号|my number", "個人番号"),
    "id_kr": _Number("kr.rrn", r"\d{6}-[1-8]\d{6}", "", "주민등록번호"),
    "id_lt": _Number("lt.asmens", r"[1-6]\d{10}", r"asmens kodas", "asmens kodas"),
    "id_mx": _Number("mx.curp", r"[A-Z][AEIOUX][A-Z]{2}\d{6}[HMX][A-Z]{5}[0-9A-Z]\d", "", "CURP"),
    "id_my": _Number("my.nric", r"\d{6}-\d{2}-\d{4}", "", "MyKad"),
    "id_nl": _Number("nl.bsn", r"\d{9}|\d{4}\.\d{2}\.\d{3}", r"bsn|burgerservicenummer|sofi(?:nummer)?", "BSN"),
    "id_no": _Number("no.fodselsnummer", r"\d{6} ?\d{5}", r"fødselsnummer|fodselsnummer|fnr|personnummer|d-nummer", "fødselsnummer"),
    "id_nz": _Number("nz.ird", r"\d{2,3}-?\d{3}-?\d{3}", r"ird(?: number)?", "IRD number"),
    "id_pk": _Number("pk.cnic", r"\d{5}-\d{7}-\d", "", "CNIC"),
    "id_pl": _Number("pl.pesel", r"\d{11}", r"pesel", "PESEL"),
    "id_pt": _Number("pt.nif", r"\d{3} ?\d{3} ?\d{3}", r"nif|contribuinte", "NIF"),
    "id_ro": _Number("ro.cnp", r"[1-9]\d{12}", r"cnp|cod numeric personal", "CNP"),
    "id_ru": _Number("ru.inn", r"\d{12}", r"инн|inn", "ИНН"),
    "id_se": _Number("se.personnummer", r"(?:\d{2})?\d{6}[-+]\d{4}", "", "personnummer"),
    "id_si": _Number("si.emso", r"\d{13}", r"emšo|emso", "EMŠO"),
    "id_sk": _Number("sk.rc", r"\d{6}/?\d{3,4}", r"rodné číslo|rodne cislo|rč", "rodné číslo"),
    "id_th": _Number("th.pin", r"\d-?\d{4}-?\d{5}-?\d{2}-?\d", r"เลขประจำตัวประชาชน|thai id|citizen id", "เลขประจำตัวประชาชน"),
    "id_tr": _Number("tr.tckimlik", r"[1-9]\d{10}", r"t\.?c\.?(?: kimlik)?(?: no)?|kimlik", "T.C. kimlik"),
    "id_ua": _Number("ua.rntrc", r"\d{10}", r"рнокпп|іпн|rntrc", "РНОКПП"),
    "id_us": _Number("us.itin", r"9\d{2}-?\d{2}-?\d{4}", r"itin|taxpayer id\w*", "ITIN"),
    "id_za": _Number("za.idnr", r"\d{6} ?\d{4} ?\d{3}", r"id (?:number|no)|identity number|rsa id", "identity number"),
}

NAMES = tuple(_NUMBERS)


def kind(name: str) -> Kind:
    """Return the kind of a country's number.  Raise NotInstalled."""
    number = _NUMBERS[name]
    try:
        module = importlib.import_module(f"stdnum.{number.module}")
    except ImportError:
        raise NotInstalled(name) from None
    named = rf"(?i)(?:^|[^\pL\d])(?:{number.words})(?:[ -]?(?:no|nr|number|nummer|numero)\.?)?{_BEFORE_NUMBER}" if number.words else ""
    start = named or r"(?:^|[^0-9A-Za-z])"
    return Kind(name, name, rf"{start}({number.form})(?:$|[^0-9A-Za-z])", _check(module.is_valid), overlaps=True)


def about(name: str) -> str:
    """Return how the country calls its number."""
    return _NUMBERS[name].about


def _check(is_valid: Callable[[str], Any]) -> Callable[[Candidate], bool]:
    def check(candidate: Candidate) -> bool:
        if re.search(r"[0-9A-Za-z][-._/+]\Z", candidate.before) or re.match(r"[-_/+][0-9A-Za-z]|\.\d", candidate.after):
            return False
        digits = _GAPS.sub("", candidate.text)
        return len(set(digits)) > 2 and bool(is_valid(candidate.text)) and not candidate.in_dump()

    return check
