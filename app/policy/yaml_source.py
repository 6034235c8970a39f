"""Read YAML text into plain data, and keep the line of every value.

PyYAML's safe loader accepts duplicate keys, and aliases that expand to a very large document; this module refuses both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from app.errors import PolicyError
from app.redaction import excerpt

_MERGE = "tag:yaml.org,2002:merge"  # the key `<<`
_TEXT = "tag:yaml.org,2002:str"
_TEXT_KEYS = (_TEXT, "tag:yaml.org,2002:value", _MERGE)
_INTEGER = "tag:yaml.org,2002:int"
_MAX_NODES = 20_000  # values of the document, with every alias expanded
_MAX_DEPTH = 50  # levels; a policy has seven
_MAX_DIGITS = 40  # of a whole number; Python prints at most 4300
_MOST_SHOWN = 60  # characters of a key

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Hold a parsed file: its data, the line of each path (from 1), and the problems of its keys."""

    name: str
    data: Any  # what the text holds, which may be any value
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def problem(self, path: Path, text: str) -> str:
        """Return `policy.yaml:12: routes[1].backend: text`; a path without a line gets that of its nearest parent."""
        place = path
        while place and place not in self.lines:
            place = place[:-1]
        line = self.lines.get(place)
        where = f"{self.name}:{line}" if line else self.name
        return f"{where}: {dotted(path)}: {text}" if path else f"{where}: {text}"

    def line(self, problem: str) -> int:
        """Return the line that a problem of this file names; 0 when it names none."""
        number = problem.removeprefix(f"{self.name}:").partition(":")[0]
        return int(number) if number.isdecimal() else 0


def dotted(path: Path) -> str:
    """Return a path as `routes[1].match.task`.  Each name is cut, and redacted when it looks like a key."""
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
    """Report a document that has more values than any policy."""


class _TooDeep(Exception):
    """Report a document that has more levels than any policy."""


class _Loader(yaml.SafeLoader):
    """Stop at a document that is too large or too deep, which PyYAML would read slowly."""

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

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        """Construct a value.  An illegal value, such as the date 2024-13-45, raises an error with its line."""
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None


def parse(name: str, text: str) -> Source:
    """Parse YAML text; `name` is the file's name in messages.  Raises PolicyError with the line of the problem."""
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
        problem = excerpt(str(error.problem or error.context))
        raise PolicyError([f"{name}{line}: not valid YAML: {problem}; correct this line or the one above it"]) from None
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, error.position) + 1
        raise PolicyError([f"{name}:{number}: not valid YAML: {str(error).splitlines()[0]}; remove it"]) from None
    except _TooMany:
        raise PolicyError(
            [f"{name}: has more than {_MAX_NODES} values when its aliases are expanded; make it smaller"]
        ) from None
    except _TooDeep:
        raise PolicyError([f"{name}: is nested too deeply; remove levels, of which a policy needs seven"]) from None
    finally:
        if loader is not None:
            loader.dispose()
    return source


class _Walk:
    """Collect the lines and the problems of the keys.  Raises PolicyError for a document that must not be expanded."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._nodes = 0
        self._open: set[int] = set()

    def visit(self, node: yaml.Node, path: Path) -> None:
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise _TooMany
        if id(node) in self._open:
            raise PolicyError([self._source.problem(path, "this alias contains itself; write its content in full")])
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
        """Refuse values that Python can read but not write."""
        if node.tag == _INTEGER and len(node.value) > _MAX_DIGITS:
            text = f"the number has more than {_MAX_DIGITS} digits; put it in quotes if it is text"
            raise PolicyError([self._source.problem(path, text)])
        if not _is_unicode(node.value):
            text = "contains half of a character (\\ud800 to \\udfff); write the whole character"
            raise PolicyError([self._source.problem(path, text)])

    def _mapping(self, node: yaml.MappingNode, path: Path) -> None:
        first_lines: dict[str, int] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise PolicyError([f"{self._source.name}:{line}: a key must be text"])
            self._scalar(key, (*path, name))
            if key.tag not in _TEXT_KEYS:
                self._key_problem(line, (*path, name), "a key must be text (put it in quotes)")
                key.tag = _TEXT  # the other checks then read the key as it is written
            if name in first_lines:
                text = f"is written twice (first in line {first_lines[name]}); keep one of them"
                self._key_problem(line, (*path, name), text)
            first_lines.setdefault(name, line)
            self._source.lines.setdefault((*path, name), line)
            self.visit(value, path if key.tag == _MERGE else (*path, name))

    def _key_problem(self, line: int, path: Path, text: str) -> None:
        self._source.problems.append(f"{self._source.name}:{line}: {dotted(path)}: {text}")
