"""Errors that a user meets. Each message is one sentence: what, where, what was expected, what is available."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ZooError(Exception):
    """A mistake in what was asked for or given. The command prints the message and exits with 2."""


def told(error: Exception, most: int = 400) -> str:
    """Return what an error says on one line: a ZooError as it is, any other with its type."""
    text = " ".join(str(error).split())[:most]
    return text if isinstance(error, ZooError) else f"{type(error).__name__}: {text}"


class UnknownName(ZooError):
    """A name that nothing is registered under."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hints: Iterable[str] = ()) -> None:
        """Say what was not found, what is spelt like it, and which failures might explain it."""
        self.kind, self.name = kind, name
        known = sorted(known)
        parts = [f"there is no {kind} named {name!r}"]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
        if near:
            parts.append(f"did you mean {' or '.join(near)}?")
        elif known:
            shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
            parts.append(f"available: {shown}")
        parts.extend(hints)
        super().__init__("; ".join(parts))


class BadSpec(ZooError):
    """A record of a plugin that breaks the contract."""


class BadSize(ZooError):
    """A size that a model cannot take, with the reason and the nearest legal sizes."""


class BadWeights(ZooError):
    """A checkpoint that cannot be read, or does not fit the model: names the keys and shapes that differ."""


class BadSuite(ZooError):
    """A suite that cannot be read: names the file, the line and the key."""

    def __init__(self, file: object, line: int | None, key: str, message: str) -> None:
        """Compose ``file:line: key: message``, leaving out what is not known."""
        where = f"{file}:{line}" if line else str(file)
        super().__init__(f"{where}: {key}: {message}" if key else f"{where}: {message}")


class BadRecords(ZooError):
    """Records that cannot be read, or that a table may not put side by side."""
