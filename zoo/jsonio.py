"""Dataclasses to plain JSON data and back, and messages between processes as packets of it.

Validation is pydantic's, imported only when something is read.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import socket
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")
# The largest message that is read in one go.
PACKET = 1 << 20


def send(channel: socket.socket, message: Mapping[str, Any]) -> None:
    """Send one message as one packet. ValueError when it holds NaN or Infinity, OSError when nobody listens."""
    channel.send(json.dumps(message, allow_nan=False).encode())


def to_json(record: Any) -> dict[str, Any]:
    """Return a dataclass instance as JSON data. ValueError when it holds NaN or Infinity."""
    data: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(record), allow_nan=False))
    return data


def from_json(cls: type[T], data: Any) -> T:
    """Return ``data`` as an instance of the dataclass ``cls``; pydantic's ValidationError when it does not fit."""
    record: T = _adapter(cls).validate_python(data)  # type: ignore[arg-type]
    return record


def get_ready(*classes: Hashable) -> None:
    """Do now what the first reading of these dataclasses would otherwise wait for."""
    for cls in classes:
        _adapter(cls)


@functools.cache
def _adapter(cls: Hashable) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)  # type: ignore[arg-type]
