"""Read numbers that are written as words: in English, German, French, Spanish, Italian, Portuguese, Dutch, Polish,
Russian, Chinese and Japanese."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_ONES = {
    "en": "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen",
    "de": "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn "
    "siebzehn achtzehn neunzehn",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize",
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis "
    "diecisiete dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro veinticinco veintiséis "
    "veintisiete veintiocho veintinueve",
    "it": "zero uno due tre quattro cinque sei sette otto nove dieci undici dodici tredici quattordici quindici sedici "
    "diciassette diciotto diciannove",
    "pt": "zero um dois três quatro cinco seis sete oito nove dez onze doze treze catorze quinze dezesseis dezessete "
    "dezoito dezenove",
    "nl": "nul een twee drie vier vijf zes zeven acht negen tien elf twaalf dertien veertien vijftien zestien "
    "zeventien achttien negentien",
    "pl": "zero jeden dwa trzy cztery pięć sześć siedem osiem dziewięć dziesięć jedenaście dwanaście trzynaście "
    "czternaście piętnaście szesnaście siedemnaście osiemnaście dziewiętnaście",
    "ru": "ноль один два три четыре пять шесть семь восемь девять десять одиннадцать двенадцать тринадцать "
    "четырнадцать пятнадцать шестнадцать семнадцать восемнадцать девятнадцать",
}
_TENS = {
    "en": "twenty thirty forty fifty sixty seventy eighty ninety",
    "de": "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig",
    "fr": "vingt trente quarante cinquante soixante septante huitante nonante",
    "es": "veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa",
    "it": "venti trenta quaranta cinquanta sessanta settanta ottanta novanta",
    "pt": "vinte trinta quarenta cinquenta sessenta setenta oitenta noventa",
    "nl": "twintig dertig veertig vijftig zestig zeventig tachtig negentig",
    "pl": "dwadzieścia trzydzieści czterdzieści pięćdziesiąt sześćdziesiąt siedemdziesiąt osiemdziesiąt "
    "dziewięćdziesiąt",
    "ru": "двадцать тридцать сорок пятьдесят шестьдесят семьдесят восемьдесят девяносто",
}
_MORE = {
    "dreissig": 30, "zwo": 2, "fourty": 40, "une": 1, "una": 1, "duas": 2, "uma": 1, "dezasseis": 16, "dezassete": 17,
    "dezanove": 19, "quatorze": 14, "vingts": 20, "veintiún": 21, "dieciseis": 16, "veintidos": 22, "veintitres": 23,
    "veintiseis": 26, "tres": 3, "zwei": 2, "ventitré": 23, "trentatré": 33,
}  # fmt: skip
_SCALES = {
    "hundred": 100, "hundert": 100, "cent": 100, "cents": 100, "cien": 100, "ciento": 100, "cento": 100, "cem": 100,
    "honderd": 100, "thousand": 1_000, "tausend": 1_000, "mille": 1_000, "mil": 1_000, "mila": 1_000, "duizend": 1_000,
    "million": 10**6, "millions": 10**6, "millionen": 10**6, "mio": 10**6, "millones": 10**6, "millón": 10**6,
    "milione": 10**6, "milioni": 10**6, "milhão": 10**6, "milhões": 10**6, "miljoen": 10**6, "mn": 10**6,
    "billion": 10**9, "billions": 10**9, "bn": 10**9, "milliard": 10**9, "milliards": 10**9, "milliarde": 10**9,
    "milliarden": 10**9, "mrd": 10**9, "miljard": 10**9, "miliardo": 10**9, "miliardi": 10**9, "bilhões": 10**9,
    "trillion": 10**12, "dozen": 12, "dozens": 12, "dutzend": 12, "docena": 12, "dúzia": 12, "dozzina": 12,
}  # fmt: skip
_LINKS = frozenset({"and", "und", "et", "y", "e", "en", "-"})
_HUNDREDS = {"doscientos": 200, "trescientos": 300, "cuatrocientos": 400, "quinientos": 500, "seiscientos": 600,
            "setecientos": 700, "ochocientos": 800, "novecientos": 900, "duzentos": 200, "trezentos": 300,
            "quatrocentos": 400, "quinhentos": 500}  # fmt: skip


def _entries() -> Iterator[tuple[str, float]]:
    """Yield the words of all languages with their values, and those that are written together."""
    for language, ones in _ONES.items():
        words = ones.split()
        tens = _TENS[language].split()
        yield from zip(words, range(100), strict=False)
        yield from zip(tens, range(20, 100, 10), strict=True)
        for ten, value in zip(tens, range(20, 100, 10), strict=True):
            for one in range(1, 10):
                word = words[one]
                if language == "de":
                    yield f"{'ein' if one == 1 else word}und{ten}", value + one
                elif language == "nl":
                    yield f"{word}{'ën' if word.endswith('e') else 'en'}{ten}", value + one
                elif language == "it":
                    yield (ten[:-1] if one in (1, 8) else ten) + word, value + one
    for ten, value in (("soixante", 60), ("quatre-vingt", 80)):
        yield ten, value
    yield from _MORE.items()
    yield from _HUNDREDS.items()


WORDS = dict(_entries())
_CHINESE = dict(zip("零一二三四五六七八九十百千万", (*range(11), 100, 1_000, 10_000), strict=True)) | {"两": 2, "〇": 0}
_TOGETHER = (
    ("tausend", 1_000), ("duizend", 1_000), ("mila", 1_000), ("mille", 1_000), ("hundert", 100), ("honderd", 100),
    ("cento", 100),
)  # fmt: skip
_COINS = frozenset({"cent", "cents", "mn", "mio"})
_LONGEST = 40  # characters of a word
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4, "fifth": 5,
    "fifths": 5, "sixth": 6, "sixths": 6, "seventh": 7, "sevenths": 7, "eighth": 8, "eighths": 8, "tenth": 10,
    "tenths": 10, "hälfte": 2, "drittel": 3, "viertel": 4, "fünftel": 5,
}  # fmt: skip


def scale(word: str) -> int:
    """Return the factor of a word such as `million`, or 1."""
    return _SCALES.get(word, 1)


def value_of(word: str) -> float | None:
    """Return the value of a word, also of words such as `zweihundertdreiundvierzig`, `duecento` and `二十`."""
    if word in WORDS:
        return WORDS[word]
    if word[:1] in _CHINESE:
        return _chinese(word)
    for name, factor in _TOGETHER:
        before, mark, after = word[:_LONGEST].partition(name)
        if mark and (before or after):
            head = 1.0 if before in ("", "ein") else value_of(before)
            tail = 0.0 if not after else value_of(after.removeprefix("und"))
            return None if head is None or tail is None else head * factor + tail
    return None


def begins(word: str) -> bool:
    """Return True when a number may begin with a word."""
    return value_of(word) is not None or (scale(word) > 1 and word not in _COINS)


def _chinese(word: str) -> float | None:
    """Return the value of the numerals at the beginning of a Chinese or Japanese word."""
    total, part, digit = 0, 0, 0
    for sign in word[:_LONGEST]:
        value = _CHINESE.get(sign)
        if value is None:
            break
        if value < 10:
            digit = value
        elif value < 10_000:
            part, digit = part + (digit or 1) * value, 0
        else:
            total, part, digit = total + (part + digit) * value, 0, 0
    return float(total + part + digit)


def read(words: Sequence[str], start: int) -> tuple[float, int] | None:
    """Return the number that begins at a token, and the index of the token behind it."""
    total, part, at = 0.0, 0.0, start
    while at < len(words):
        word = words[at]
        factor = scale(word)
        value = value_of(word) if factor == 1 else None
        if value is not None:
            if word in ("vingts", "vingt") and part == 4:
                part = 80
            else:
                part += value
        elif factor >= 1_000:
            total, part = total + (part or 1) * factor, 0.0
        elif factor > 1:
            part = (part or 1) * factor
        elif word not in _LINKS or at == start or not _continues(words, at):
            break
        at += 1
    if at < len(words) and words[at] in _PARTS and start < at and total + part < _PARTS[words[at]] + 10:
        return (total + part) / _PARTS[words[at]], at + 1
    return (total + part, at) if at > start else None


def _continues(words: Sequence[str], at: int) -> bool:
    following = words[at + 1] if at + 1 < len(words) else ""
    return value_of(following) is not None or scale(following) > 1
