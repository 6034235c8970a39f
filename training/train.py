"""Build app/routing/weights.json from a data folder, and print the figures of the model card.

    python training/train.py DATA_FOLDER [--figures]

Run it from the project's folder, with training/requirements.txt installed.  The same data give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME))

from cost import Cost, Own  # noqa: E402
from data import cost_rows, own_levels, own_prompts, public_prompts  # noqa: E402
from task import LABELS, Fitted, fit, left_out, reliability, report  # noqa: E402
from threadpoolctl import threadpool_limits  # noqa: E402

from app.routing import difficulty, features  # noqa: E402

SEED = 1
ARTEFACT = HOME / "app" / "routing" / "weights.json"
STEPS = 127  # a weight is an integer from -127 to 127
MIN_STEPS = 3  # smaller weights are left out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "data", type=Path, help="folder with task_dev.jsonl, cost_quality_dev.jsonl, mmlupro_rows.jsonl"
    )
    parser.add_argument("--figures", action="store_true", help="also print the figures with sources left out")
    arguments = parser.parse_args()
    with threadpool_limits(1):
        build(arguments.data, arguments.figures)


def build(folder: Path, figures: bool) -> None:
    public, own = public_prompts(folder), own_prompts(Path(__file__).parent, SEED)
    names = [features.features(prompt.text) for prompt in public]
    own_names = [features.features(prompt.text) for prompt in own]
    rows = cost_rows(folder)
    levels = own_levels(Path(__file__).with_name("difficulty.txt"))
    ordered = Own(
        {
            level: [difficulty.signs(text, task, task == "code") for text, task in texts]
            for level, texts in levels.items()
        }
    )
    cost = Cost(rows, [difficulty.signs(row["prompt"], "", is_code(row)) for row in rows], ordered)
    everything = np.ones(len(rows), dtype=bool)
    weights = cost.choose(everything)
    model = fit([*public, *own], [*names, *own_names])
    ARTEFACT.write_text(artefact(model, weights), encoding="utf-8")
    print(f"{ARTEFACT.name}: {ARTEFACT.stat().st_size} bytes; {len(public)} public and {len(own)} own prompts")
    print(f"own prompts by difficulty: {sum(map(len, levels.values()))}, order {ordered.order(weights):.3f}; {weights}")
    if figures:
        points = left_out(public, own, names, own_names)
        print(*report(public, points), "", *reliability(public, points), sep="\n")
        score = cost.left_out_score()
        print("\n| pair | APGR, data set left out |\n|---|---|")
        print(*(f"| {pair} | {value:.3f} |" for pair, value in cost.apgr(score, everything).items()), sep="\n")
        print("\n| data set alone, left out | APGR |\n|---|---|")
        print(*(f"| {name} | {value:.3f} |" for name, value in cost.by_set(score).items()), sep="\n")


def is_code(row: dict[str, object]) -> bool:
    """Return the true task: the difficulty weights must not depend on the task model."""
    return row["group"] in ("mbpp", "human_eval")


def artefact(model: Fitted, difficulty_weights: dict[str, float]) -> str:
    """Return JSON with one feature a line, so that a change of the model is a readable diff."""
    unit = float(np.abs(model.weights).max()) / STEPS
    steps = np.rint(model.weights / unit).astype(int)
    columns = {name: steps[:, column] for name, column in model.columns.items()}
    by_name = {name: column.tolist() for name, column in columns.items() if abs(column).max() >= MIN_STEPS}
    lines = [f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(weight)}" for name, weight in by_name.items()]
    bias = np.rint(model.bias / unit).astype(int).tolist()
    head = f'"labels": {json.dumps(LABELS)}, "unit": {unit:.6f}, "bias": {bias}'
    weights = ",\n".join(lines)
    return f'{{"difficulty": {json.dumps(difficulty_weights)},\n"task": {{{head},\n"weights": {{\n{weights}\n}}}}}}\n'


if __name__ == "__main__":
    main()
