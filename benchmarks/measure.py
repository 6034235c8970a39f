"""`make measure`: print measures of the code.  No test enforces them, except for the docstrings.

python -m benchmarks.measure [--root OTHER_CHECKOUT]
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_STATES = {
    *("live", "shadow", "probe", "verify", "ok", "error", "cancelled"),
    *("route", "pin", "continuation", "fit", "cooling", "spill", "fallback"),
    *("closed", "open", "half-open", "chat", "responses", "native", "high", "normal"),
}
# The first word of a docstring that begins as a fragment or a subordinate clause.
_FRAGMENT = re.compile(
    r"(?:Of|Those|What|Whether|Who|Whom|Whose|Which|That|Where|When|As|By|From|For|In|With|Without|How|Why|Also|But|And|Or)\b"
)


@dataclass(frozen=True)
class Function:
    """Hold one function of the program: its module, its name, and its lines without the docstring."""

    module: str
    name: str
    lines: int


def sources(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of every module of the program."""
    for path in sorted((root / "app").rglob("*.py")):
        yield str(path.relative_to(root)), path.read_text("utf-8")


def functions(root: Path) -> list[Function]:
    """List every function of the program."""
    found = []
    for module, text in sources(root):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                documented = ast.get_docstring(node) is not None
                body = node.body[1:] if documented and len(node.body) > 1 else node.body
                last = max(node.end_lineno or node.lineno, node.lineno)
                found.append(Function(module, node.name, last - body[0].lineno + 1))
    return found


def docstrings(root: Path) -> Iterator[tuple[str, int, str]]:
    """Yield module, line and first line of every docstring."""
    for module, text in sources(root):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                documented = ast.get_docstring(node)
                if documented:
                    yield module, node.body[0].lineno, documented.splitlines()[0]


def fragments(root: Path) -> list[str]:
    """List the docstrings that begin as a fragment."""
    return [f"{module}:{line}: {text}" for module, line, text in docstrings(root) if _FRAGMENT.match(text)]


def count(root: Path, pattern: str) -> int:
    """Count the matches of a pattern in the program's code."""
    return sum(len(re.findall(pattern, text)) for _, text in sources(root))


def bare_states(root: Path) -> int:
    """Count comparisons and arguments that name a state by a bare string."""
    total = 0
    for _, text in sources(root):
        for node in ast.walk(ast.parse(text)):
            values: list[ast.expr] = []
            if isinstance(node, ast.Compare):
                for operand in (node.left, *node.comparators):
                    values += operand.elts if isinstance(operand, (ast.Tuple, ast.List, ast.Set)) else [operand]
            elif isinstance(node, ast.Call):
                values = [*node.args, *(keyword.value for keyword in node.keywords)]
            total += sum(isinstance(value, ast.Constant) and value.value in _STATES for value in values)
    return total


def passed_by_a_chat(root: Path) -> tuple[int, int]:
    """Run a buffered chat, and return the number of functions and modules that it passes."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("passed.py"))],
        env={**os.environ, "PYTHONPATH": str(root), "LLR_LOG_LEVEL": "warning"},
        capture_output=True,
        text=True,
        check=True,
    )
    functions_passed, modules = json.loads(done.stdout)
    return functions_passed, modules


def measures(root: Path) -> Iterator[tuple[str, str]]:
    """Yield each measure and its figure."""
    found = functions(root)
    lengths = sorted(function.lines for function in found)
    modules = sorted(((len(text.splitlines()), name) for name, text in sources(root)), reverse=True)
    longest = max(found, key=lambda function: function.lines)
    chat_functions, chat_modules = passed_by_a_chat(root)
    yield "functions a buffered chat passes (goal 110)", str(chat_functions)
    yield "modules a buffered chat passes (goal 22)", str(chat_modules)
    yield "functions in all", str(len(found))
    yield "lines of a function, median", f"{statistics.median(lengths):g}"
    yield "lines of a function, 90th percentile", str(lengths[int(len(lengths) * 0.9)])
    yield "longest function", f"{longest.lines} ({longest.module}: {longest.name})"
    yield "longest modules", ", ".join(f"{lines} ({name})" for lines, name in modules[:3])
    yield "lines of the program", str(sum(lines for lines, _ in modules))
    yield "`Any` (goal 150)", str(count(root, r"\bAny\b"))
    yield "states as bare strings", str(bare_states(root))
    yield "docstrings that begin as a fragment (goal 0)", str(len(fragments(root)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Print how the code reads, in figures.")
    parser.add_argument("--root", type=Path, default=ROOT, help="another checkout")
    parser.add_argument("--fragments", action="store_true", help="list the docstrings that begin as a fragment")
    options = parser.parse_args()
    for name, figure in measures(options.root):
        print(f"{name:46} {figure}")
    if options.fragments:
        print("\n".join(fragments(options.root)))


if __name__ == "__main__":
    main()
