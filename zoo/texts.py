"""Texts as token ids: bytes, a vocabulary of 256. No tokeniser to train, and no text that it cannot write."""

from __future__ import annotations

from collections.abc import Iterable

from zoo.errors import ZooError

# Control characters that no text needs stand for what a translator needs besides text.
PADDING, START, END = 0, 1, 2
RESERVED = {PADDING: "padding", START: "the start", END: "the end"}
SIZE = 256


def encode_text(text: str) -> list[int]:
    """Return the UTF-8 bytes of a text as ids, without start and end. ZooError names what cannot be encoded."""
    try:
        ids = list(text.encode())
    except UnicodeEncodeError as error:
        raise ZooError(
            f"{shown_text(text)} cannot be written in UTF-8: {error.reason} at character {error.start}"
        ) from None
    if problem := reserved_byte(bytes(ids)):
        raise ZooError(f"{shown_text(text)} {problem}")
    return ids


def decode_text(ids: Iterable[int]) -> str:
    """Return the text of ids up to the first end; padding and start are left out.

    What a model writes need not be UTF-8: bytes that are none become U+FFFD, which no reference has.
    """
    written = bytearray()
    for token in ids:
        if not 0 <= token < SIZE:
            raise ZooError(f"{token} is no id of the byte vocabulary; expected 0 to {SIZE - 1}")
        if token == END:
            break
        if token not in RESERVED:
            written.append(token)
    return written.decode(errors="replace")


def reserved_byte(text: bytes) -> str:
    """Say in words which reserved byte a text has, and where; nothing where it has none."""
    at, byte = min(((text.find(byte), byte) for byte in RESERVED if byte in text), default=(-1, PADDING))
    return f"has the byte {byte} at position {at}, which stands for {RESERVED[byte]}" if at >= 0 else ""


def shown_text(text: str, most: int = 40) -> str:
    """Return a text as an error shows it."""
    return ascii(text if len(text) <= most else f"{text[:most]}...")
