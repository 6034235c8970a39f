"""YAML text -> plain data, with the line of every value.  Refuses what PyYAML's safe loader lets through:
duplicate keys, and aliases that unfold into more than anybody wrote."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from app.errors import PolicyError

_MERGE = "tag:yaml.org,2002:merge"  # the key `<<`
_TEXT = "tag:yaml.org,2002:str"
_TEXT_KEYS = (_TEXT, "tag:yaml.org,2002:value", _MERGE)
_MAX_NODES = 20_000  # of the document with every alias unfolded

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed file; `lines` says where each path stands (1-based), `problems` what is wrong with its keys."""

    name: str
    data: Any
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def problem(self, path: Path, text: str) -> str:
        """`policy.yaml:12: routes[1].backend: text`, with the line of the nearest path that has one."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        line = self.lines.get(known)
        where = f"{self.name}:{line}" if line else self.name
        return f"{where}: {dotted(path)}: {text}" if path else f"{where}: {text}"


def dotted(path: Path) -> str:
    """routes[1].match.task"""
    out = ""
    for step in path:
        out += f"[{step}]" if isinstance(step, int) else f".{step}" if out else str(step)
    return out


def parse(name: str, text: str) -> Source:
    """Raises PolicyError with the line of what is wrong."""
    loader = None
    try:
        loader = yaml.SafeLoader(text)  # the constructor itself refuses control characters
        node = loader.get_single_node()
        source = Source(name, None)
        if node is not None:
            _Walk(source).visit(node, ())
            source = Source(name, loader.construct_document(node), source.lines, source.problems)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise PolicyError([f"{name}{line}: not valid YAML: {error.problem or error.context}"]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise PolicyError([f"{name}: not valid YAML: {str(error).splitlines()[0]}"]) from None
    except RecursionError:
        raise PolicyError([f"{name}: nested too deeply"]) from None
    finally:
        if loader is not None:
            loader.dispose()
    return source


class _Walk:
    """Notes lines, and what is wrong with keys.  Raises PolicyError for a document that must not be unfolded."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._nodes = 0
        self._open: set[int] = set()

    def visit(self, node: yaml.Node, path: Path) -> None:
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise PolicyError([f"{self._source.name}: unfolds into more than {_MAX_NODES} values; too many aliases"])
        if id(node) in self._open:
            raise PolicyError([self._source.problem(path, "an alias that contains itself")])
        self._source.lines.setdefault(path, node.start_mark.line + 1)
        self._open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            self._mapping(node, path)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.visit(item, (*path, index))
        self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> None:
        seen: dict[str, int] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise PolicyError([f"{self._source.name}:{line}: a key must be a plain word"])
            where = f"{self._source.name}:{line}: {dotted((*path, name))}"
            if key.tag not in _TEXT_KEYS:
                self._source.problems.append(f"{where}: a key must be text (put it in quotes)")
                key.tag = _TEXT  # the other checks then know it by what is written
            if name in seen:
                self._source.problems.append(f"{where}: given twice (first in line {seen[name]})")
            seen.setdefault(name, line)
            self._source.lines.setdefault((*path, name), line)
            self.visit(value, path if key.tag == _MERGE else (*path, name))
