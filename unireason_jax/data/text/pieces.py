"""Words of a SentencePiece model, in the bytes that it is kept in."""

import struct


def piece(word: str) -> bytes:
    """A word as one more piece of a serialized model, to be put behind it.

    Pieces are field 1 of the model. Protocol buffers that follow each other are one message, and
    their repeated fields one list: what was there keeps its number.
    """
    name = f"\u2581{word}".encode()
    return _field(_field(name) + b"\x15" + struct.pack("<f", 0.0))


def _field(data: bytes) -> bytes:
    """Bytes as field 1, with their length."""
    return b"\x0a" + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
