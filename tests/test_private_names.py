"""The code uses no private name of another package: such a name may change with any release of it."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import app
from tests.documents import ROOT

MODULES = sorted(module.name for module in pkgutil.walk_packages(app.__path__, "app."))
DOCUMENTED = {
    "_srcfile",  # the logging HOWTO, "Optimization"
    *("_make", "_fields", "_asdict", "_replace"),  # named tuples
    "_deserialize",  # marshmallow, "Custom Fields"
    "_meta",  # peewee, "Model options"
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def defined_in(tree: ast.AST) -> set[str]:
    """Return the private names that a module defines: functions, variables, attributes of `self`, fields."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and owner(node) == "self":
            names.add(node.attr)
    return names


def owner(node: ast.Attribute) -> str:
    return node.value.id if isinstance(node.value, ast.Name) else ""


def foreign_names(source: str, defined: set[str]) -> Iterator[str]:
    """Yield the private names of others in a module.  `defined`: by all modules of the application, for subclasses."""
    tree = ast.parse(source)
    own = defined_in(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("app"):
            yield from (f"{node.module}.{name.name}" for name in node.names if is_private(name.name))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            known = defined if owner(node) in ("self", "cls") else own
            if node.attr not in known | DOCUMENTED:
                yield f"{ast.unparse(node)}"


def overridden(module: ModuleType) -> Iterator[str]:
    """Yield the private names in classes of a module that a class of another package above them has too."""
    for node in ast.parse(Path(module.__file__ or "").read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            names = set(filter(is_private, defined_in(ast.Module(node.body, []))))
            for base in getattr(module, node.name).__mro__:
                if not base.__module__.startswith("app"):
                    shared = names & vars(base).keys() - DOCUMENTED
                    yield from (f"{node.name}.{name} of {base.__module__}" for name in shared)


def test_no_module_uses_a_private_name_of_another_package() -> None:
    sources = {path: path.read_text("utf-8") for path in (ROOT / "app").rglob("*.py")}
    defined = set().union(*(defined_in(ast.parse(source)) for source in sources.values()))
    found = {str(path.relative_to(ROOT)): [*foreign_names(source, defined)] for path, source in sources.items()}
    assert not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize("name", MODULES)
def test_no_class_overrides_a_private_name_of_another_package(name: str) -> None:
    assert not [*overridden(importlib.import_module(name))]


@pytest.mark.parametrize(
    "planted",
    [
        "pool._put_conn(connection)",
        "from urllib3.connection import _url_from_connection",
        "class Mine(HTTPConnection):\n    def connect(self):\n        self._dns_host = self._new_conn()",
        "worker.cfg._settings",
    ],
)
def test_a_planted_private_name_is_found(planted: str) -> None:
    assert [*foreign_names(planted, set())]
