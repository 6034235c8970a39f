"""YAML text -> plain data, with the line of every value.  Refuses what PyYAML's safe loader lets through:
duplicate keys, and aliases that unfold into more than anybody wrote."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from app.errors import PolicyError, excerpt

_MERGE = "tag:yaml.org,2002:merge"  # the key `<<`
_TEXT = "tag:yaml.org,2002:str"
_TEXT_KEYS = (_TEXT, "tag:yaml.org,2002:value", _MERGE)
_INTEGER = "tag:yaml.org,2002:int"
_MAX_NODES = 20_000  # of the document with every alias unfolded
_MAX_DEPTH = 50  # levels; those of a policy are seven
_MAX_DIGITS = 40  # of a whole number; Python cannot print one of more than 4300
_MOST_SHOWN = 60  # characters of a key

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
    """routes[1].match.task; long names are cut, and a pasted key is left out: its shape would be lost in the whole."""
    out = ""
    for step in path:
        name = excerpt(str(step), most=_MOST_SHOWN)
        out += f"[{name}]" if isinstance(step, int) else f".{name}" if out else name
    return out


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _TooMany(Exception):
    """The document holds more values than any policy."""


class _TooDeep(Exception):
    """The document has more levels than any policy."""


class _Loader(yaml.SafeLoader):
    """Stops reading a document that is too large or too deep, which PyYAML would do slowly."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._composed = 0
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._composed += 1
        if self._composed > _MAX_NODES:
            raise _TooMany
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _TooDeep
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Tells where a value stands that is none, such as the date 2024-13-45."""
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None


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
        what = excerpt(str(error.problem or error.context))
        raise PolicyError([f"{name}{line}: not valid YAML: {what}; correct this line or the one above it"]) from None
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, error.position) + 1
        raise PolicyError([f"{name}:{number}: not valid YAML: {str(error).splitlines()[0]}; remove it"]) from None
    except _TooMany:
        raise PolicyError([f"{name}: more than {_MAX_NODES} values, aliases unfolded; make it smaller"]) from None
    except _TooDeep:
        raise PolicyError([f"{name}: nested too deeply; no key of a policy takes more than a few levels"]) from None
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
            raise PolicyError(
                [self._source.problem(path, "an alias that contains itself; write out what it stands for")]
            )
        self._source.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            self._scalar(node, path)
            return
        self._open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            self._mapping(node, path)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.visit(item, (*path, index))
        self._open.discard(id(node))

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> None:
        """Refuses what Python reads and cannot write again."""
        if node.tag == _INTEGER and len(node.value) > _MAX_DIGITS:
            text = f"a number of more than {_MAX_DIGITS} digits; put it in quotes if it is text"
            raise PolicyError([self._source.problem(path, text)])
        if not _is_unicode(node.value):
            text = "holds half a character (\\ud800 to \\udfff); write the whole character"
            raise PolicyError([self._source.problem(path, text)])

    def _mapping(self, node: yaml.MappingNode, path: Path) -> None:
        seen: dict[str, int] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise PolicyError([f"{self._source.name}:{line}: a key must be a plain word"])
            self._scalar(key, (*path, name))
            if key.tag not in _TEXT_KEYS:
                self._key_problem(line, (*path, name), "a key must be text (put it in quotes)")
                key.tag = _TEXT  # the other checks then know it by what is written
            if name in seen:
                self._key_problem(line, (*path, name), f"given twice (first in line {seen[name]}); keep one of them")
            seen.setdefault(name, line)
            self._source.lines.setdefault((*path, name), line)
            self.visit(value, path if key.tag == _MERGE else (*path, name))

    def _key_problem(self, line: int, path: Path, text: str) -> None:
        self._source.problems.append(f"{self._source.name}:{line}: {dotted(path)}: {text}")
