"""Suites: read a YAML file, and name file, line and key of what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import yaml
from pydantic import (
    ValidationError,
)

from zoo.errors import BadSuite, UnknownName, ZooError
from zoo.images import image_sizes
from zoo.resources import suites
from zoo.schema import (
    PLOT_KINDS,
    TABLE_KINDS,
    UNKNOWN_KIND,
    Group,
    Images,
    LayerRow,
    Limits,
    ModelEntry,
    Ours,
    PublishedColumn,
    Reason,
    Strict,
    Suite,
)

KEY_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")


@dataclass(frozen=True)
class SuiteFile:
    """A suite with its name, its file, and the line of each key, for messages."""

    name: str
    path: Path
    suite: Suite
    lines: Mapping[tuple[Hashable, ...], int]

    def error(self, loc: tuple[Hashable, ...], message: str) -> BadSuite:
        """Return an error that points at ``loc``, a path of keys and positions."""
        return BadSuite(self.path, line_of(self.lines, loc), key_text(loc), message)


def with_images(file: SuiteFile, images: Path) -> SuiteFile:
    """Return a suite with the sizes of the images in a folder, or in a COCO annotation file, for its own.

    ZooError where it takes none, or where there are none.
    """
    if file.suite.images is None:
        raise ZooError(f"the suite {file.name} takes no images")
    sizes = Counter(f"{height}x{width}" for _, height, width in image_sizes(images))
    own = file.suite.images.model_copy(update={"name": images.stem or str(images), "sizes": dict(sizes)})
    return replace(file, suite=file.suite.model_copy(update={"images": own}))


# -- reading -------------------------------------------------------------------------------------------------


def find_suite(name: str) -> Path:
    """Return the file of a suite given by name or by path."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name)
    known = suites()
    if name not in known:
        raise UnknownName("suite", name, known, ["a suite of your own is given by its path, ending in .yaml"])
    return known[name]


def read_suite(name: str) -> SuiteFile:
    """Read and validate a suite given by name or by path. BadSuite says file, line and key of what is wrong."""
    path = find_suite(name)
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise BadSuite(path, None, "", f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadSuite(
            path, None, "", f"is not UTF-8 text: byte {error.start} is 0x{error.object[error.start]:02x}"
        ) from None
    return parse_suite(text, path)


def parse_suite(text: str, path: Path) -> SuiteFile:
    """Validate the text of a suite; ``path`` is what messages and the name are taken from."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = dict(node_lines(node, path)) if node else {}
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        message = f"not valid YAML: {yaml_problem(text, error)}"
        raise BadSuite(path, mark.line + 1 if mark else None, "", message) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = " ".join(str(error).split())[:120]
        raise BadSuite(path, None, "", f"not valid YAML: {first}") from None
    if not isinstance(data, dict):
        raise BadSuite(
            path, None, "", f"expected a mapping with the keys schema and groups, found {type(data).__name__}"
        )
    try:
        suite = Suite.model_validate(data)
    except ValidationError as invalid:
        raise first_error(path, lines, invalid) from None
    return SuiteFile(path.stem, path, suite, lines)


def yaml_problem(text: str, error: yaml.MarkedYAMLError) -> str:
    """Say what YAML found wrong; a tab is named as such."""
    lines = text.splitlines()
    at = error.problem_mark.line if error.problem_mark else len(lines)
    if at < len(lines) and "\t" in lines[at]:
        return "a tab character; YAML is indented with spaces"
    return f"{error.problem or error.context}"


def node_lines(
    node: yaml.Node, path: Path, loc: tuple[Hashable, ...] = ()
) -> Iterator[tuple[tuple[Hashable, ...], int]]:
    """Yield the line of every key and item; a key given twice is an error."""
    yield loc, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: set[Hashable] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in KEY_TAGS:
                raise BadSuite(path, key.start_mark.line + 1, key_text(loc), "a key must be plain text")
            if key.value in seen:
                raise BadSuite(path, key.start_mark.line + 1, key_text((*loc, key.value)), "this key is given twice")
            seen.add(key.value)
            yield from node_lines(value, path, (*loc, key.value))
            yield (*loc, key.value), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            yield from node_lines(item, path, (*loc, position))


def line_of(lines: Mapping[tuple[Hashable, ...], int], loc: tuple[Hashable, ...]) -> int | None:
    """Return the line of the innermost part of ``loc`` that the file has."""
    for length in range(len(loc), -1, -1):
        if loc[:length] in lines:
            return lines[loc[:length]]
    return None


def key_text(loc: Iterable[Hashable]) -> str:
    """Write a location as ``groups[0].axes.size``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.lstrip(".")


def first_error(path: Path, lines: Mapping[tuple[Hashable, ...], int], invalid: ValidationError) -> BadSuite:
    """Turn pydantic's findings into one sentence about the first of them that lies deepest in the file."""
    found = max(
        invalid.errors(), key=lambda e: (e["type"] == "extra_forbidden", known_depth(lines, file_loc(e["loc"])))
    )
    loc = file_loc(found["loc"])
    message = found["msg"].removeprefix("Value error, ")
    if found["type"] == "extra_forbidden":
        allowed = ", ".join(sorted(allowed_keys(found["loc"])))
        message = f"unknown key; expected one of {allowed}"
    elif found["type"] == "missing":
        message = "this key is missing"
    elif found["type"] == UNKNOWN_KIND:
        loc = (*loc, "kind")
    elif not found["type"].startswith("value_error"):
        message = f"{message}, found {found['input']!r}" if not isinstance(found["input"], dict | list) else message
    return BadSuite(path, line_of(lines, loc), key_text(loc), message)


def file_loc(loc: tuple[Hashable, ...]) -> tuple[Hashable, ...]:
    """Return where an error is in the file: without what pydantic says of the types that it tried."""
    tagged = loc[:2] + loc[3:] if len(loc) > 2 and loc[0] in TAGGED and loc[2] in TAGGED[str(loc[0])] else loc
    return tuple(p for p in tagged if p not in ("str", "ModelEntry", "Ours", "int", "float", "bool", "[key]"))


def known_depth(lines: Mapping[tuple[Hashable, ...], int], loc: tuple[Hashable, ...]) -> int:
    """Return how many leading parts of ``loc`` the file has."""
    return max((n for n in range(len(loc) + 1) if loc[:n] in lines), default=0)


# What may stand in a list of several kinds, and what may stand below a key.
TAGGED: Mapping[str, Mapping[str, type[Strict]]] = MappingProxyType({"tables": TABLE_KINDS, "plots": PLOT_KINDS})
SECTIONS: Mapping[str, type[Strict]] = MappingProxyType(
    {
        "groups": Group,
        "limits": Limits,
        "models": ModelEntry,
        "layers": LayerRow,
        "columns": PublishedColumn,
        "reasons": Reason,
        "images": Images,
    }
)


def allowed_keys(loc: tuple[Hashable, ...]) -> list[str]:
    """Return the keys that may stand where pydantic's ``loc`` points."""
    if "Ours" in loc:
        return list(Ours.model_fields)
    names = [part for part in loc[:-1] if part in SECTIONS]
    kinds = TAGGED.get(str(loc[0]), {}) if len(loc) > 2 else {}
    model: type[Strict] = SECTIONS[str(names[-1])] if names else kinds.get(str(loc[2]), Suite) if kinds else Suite
    return [info.alias or name for name, info in model.model_fields.items()]
