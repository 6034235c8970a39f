"""Score the detectors: recall by kind, false alarms, speed.

python -m benchmarks.private [--labelled FILE.jsonl] [--keys 20000] [--bulk 100]

A labelled line is {"kind", "expected", "text" | "body"}: `expected` is the name of a detector, or `none` for harmless
text; any detector of secrets may find a secret.  Lines that expect another name are left out.  Without a file, random
keys of every kind in secrets.txt and bulk text of 100 kB are tried alone.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from app.routing.detect import DETECTORS, RECOMMENDED, Detectors
from app.routing.private import secrets
from app.types import SensitivityRules
from tests.routing import samples

SECRETS = tuple(dict.fromkeys(kind.detector for kind in secrets.KINDS))
SINGLE = {name: Detectors(SensitivityRules((name,))) for name in DETECTORS}


def labelled(path: Path) -> None:
    """Print recall by detector, the kinds with misses, and the share of harmless lines that alarm."""
    found: Counter[str] = Counter()
    total: Counter[str] = Counter()
    missed: Counter[tuple[str, str]] = Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        document = row.get("body") or {"text": row["text"]}
        names = {name for name, detectors in SINGLE.items() if detectors.find(document)}
        expected = "secrets" if row["expected"] in SECRETS else row["expected"]
        if expected not in ("secrets", "none", *DETECTORS):
            continue
        wanted = {"secrets": set(SECRETS), "none": set(DETECTORS)}.get(expected, {expected})
        hit = bool(names & wanted)
        total[expected] += 1
        found[expected] += hit
        if hit == (expected == "none"):
            missed[expected, row["kind"]] += 1
    for name, count in total.items():
        title = "false alarms" if name == "none" else "found"
        print(f"{name:20s} {title:12s} {found[name]:5d} of {count:5d}  {found[name] / count:.3f}")
    for (name, kind), count in missed.most_common():
        print(f"  wrong: {name} {kind}: {count}")


def keys(count: int) -> None:
    """Print the kinds of which more than one random key in a thousand is missed."""
    every = Detectors(SensitivityRules(SECRETS))
    shapes = [kind for kind in secrets.KINDS if kind.token]
    worst = 0.0
    for kind in shapes:
        rng = random.Random(kind.name)
        pattern = kind.pattern.removeprefix(secrets.WORD_START)
        missed = sum(every.find({"a": f"it is {samples.text_of(pattern, rng)} here"}) is None for _ in range(count))
        worst = max(worst, missed / count)
        if missed > count / 1000:
            print(f"  {kind.detector} {kind.name}: {missed} of {count} missed")
    print(f"random keys: {len(shapes)} kinds, {count} of each, at the most {worst:.5f} missed")


def bulk(count: int) -> None:
    """Print the share of documents of 100 kB that alarm."""
    for title, names in (("recommended", RECOMMENDED), ("all", DETECTORS)):
        detectors = Detectors(SensitivityRules(names))
        for name in samples.BULK:
            texts = (samples.bulk(name, 100_000, random.Random(f"{name} {seed}")) for seed in range(count))
            alarms = sum(detectors.find({"a": text}) is not None for text in texts)
            print(f"{title:12s} {name:24s} {alarms:4d} of {count} documents alarm")


def speed() -> None:
    """Print microseconds for ordinary prompts and code, when RE2's automaton is warm."""
    detectors = Detectors(SensitivityRules(("recommended",)))
    prose = "Please explain how the sky gets its colour, and why sunsets are red. Give me three examples. "
    code = Path(samples.__file__).read_text(encoding="utf-8").replace("api_key", "value")
    sizes = {"200 characters": 200, "4 kB": 4000, "1 MB": 1_000_000}
    for kind, piece in (("prose", prose), ("code", code)):
        for title, size in sizes.items():
            document = {"a": (piece * (size // len(piece) + 1))[:size]}
            taken = []
            for _ in range(30 if size > 10_000 else 300):
                begin = time.process_time()
                detectors.find(document)
                taken.append(time.process_time() - begin)
            print(f"{kind:6s} {title:15s} {min(taken) * 1e6:10.1f} µs")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labelled", type=Path)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--bulk", type=int, default=20)
    chosen = parser.parse_args(arguments)
    if chosen.labelled:
        labelled(chosen.labelled)
    keys(chosen.keys)
    bulk(chosen.bulk)
    speed()


if __name__ == "__main__":
    main()
