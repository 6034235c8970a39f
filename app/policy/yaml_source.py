"""YAML text -> plain data, with the line of every value.  Refuses what PyYAML's safe loader lets through:
duplicate keys, and aliases that unfold into more than anybody wrote."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from app.errors import PolicyError, redact

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

    def line(self, problem: str) -> int:
        """The line that a problem of this file names; 0 where it names none."""
        number = problem.removeprefix(f"{self.name}:").partition(":")[0]
        return int(number) if number.isdecimal() else 0


def dotted(path: Path) -> str:
    """routes[1].match.task; without a pasted key, whose shape would be lost in the whole."""
    out = ""
    for step in path:
        name = redact(str(step))
        out += f"[{name}]" if isinstance(step, int) else f".{name}" if out else name
    return out


class _TooMany(Exception):
    """The document holds more values than any policy."""


class _Loader(yaml.SafeLoader):
    """Stops reading a document that is too large, which PyYAML would do slowly."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._composed = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._composed += 1
        if self._composed > _MAX_NODES:
            raise _TooMany
        return super().compose_node(parent, index)


def parse(name: str, text: str) -> Source:
    """Raises PolicyError with the line of what is wrong."""
    loader = None
    try:
        loader = _Loader(text)  # the constructor itself refuses control characters
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
    except _TooMany:
        raise PolicyError([f"{name}: more than {_MAX_NODES} values, aliases unfolded"]) from None
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
            raise _TooMany
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
