"""Damages bytes and values at random, the same way for the same seed."""

import struct
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

HEAD = 1024  # bytes in which headers stand
KINDS = ("flip1", "flip8", "flip100", "head", "cut", "remove", "double", "zero", "noise", "splice", "number", "box")
MAX_RANGE = 4096  # bytes that are removed, doubled, zeroed or randomised at once
NUMBERS = (0, 1, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFF0000, 0xFFFFFFFF)
MP4_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"mvex", b"edts", b"udta", b"dinf")
VALUES = (None, True, -1, 0, 10**30, 1e308, float("nan"), "", "x" * 300, "\x00\x1b]0;", [], {}, [[]], {"": None})


def flip_bits(data: bytes, random: Random, count: int) -> bytes:
    """The data with `count` flipped bits."""
    damaged = bytearray(data)
    for _ in range(count):
        damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
    return bytes(damaged)


def mutated(data: bytes, random: Random, others: Sequence[bytes] = ()) -> tuple[str, bytes]:
    """One mutation of a file.

    Args:
        data: the file.
        random: chooses.
        others: files whose ends may be put behind its beginning.

    Returns:
        What was done, and the result.
    """
    if not data:
        return "nothing", data
    begin, end = sorted(random.choices(range(len(data) + 1), k=2))
    end = min(end, begin + MAX_RANGE)
    kind = random.choice(
        ("flip1", "flip8", "flip100", "head", "cut", "remove", "double", "zero", "noise", "splice", "number", "box")
    )
    boxes = list(mp4_boxes(data)) if kind == "box" else []
    if kind.startswith("flip") or (kind == "box" and not boxes) or (kind == "splice" and not others):
        return kind, flip_bits(data, random, int(kind[4:]) if kind.startswith("flip") else 1)
    if kind == "head":
        damaged = bytearray(data)
        for _ in range(3):
            damaged[random.randrange(min(len(data), HEAD))] = random.randrange(256)
        return kind, bytes(damaged)
    if kind == "cut":
        return kind, data[: random.choice((1, 4, 16, 64, random.randrange(len(data))))]
    if kind == "splice":
        other = random.choice(others)
        return kind, data[: random.randrange(len(data))] + other[random.randrange(len(other)) :]
    if kind in ("number", "box"):
        start, size = random.choice(boxes) if boxes else (0, min(len(data), MAX_RANGE))
        at = start + 4 * random.randrange(max(1, size // 4 - 1))
        return kind, data[:at] + struct.pack(">I", random.choice(NUMBERS)) + data[at + 4 :]
    middle = {
        "remove": b"",
        "double": data[begin:end] * 2,
        "zero": bytes(end - begin),
        "noise": random.randbytes(end - begin),
    }
    return kind, data[:begin] + middle[kind] + data[end:]


def mp4_boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """(place, size) of every box of an MP4 or MOV file but those of the samples; nothing for another file."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        if size < 8 or start + size > end:
            return
        if kind != b"mdat":
            yield start, size
        if kind in MP4_PARENTS:
            yield from mp4_boxes(data, start + 8, start + size)
        start += size


def mutated_value(value: Any, random: Random) -> Any:
    """A value of JSON in which one part is another one, absent, or doubled."""
    if isinstance(value, (dict, list)) and value and random.random() < 0.85:
        copy = dict(value) if isinstance(value, dict) else list(value)
        key = random.choice(list(copy)) if isinstance(copy, dict) else random.randrange(len(copy))
        action = random.random()
        if action < 0.15:
            del copy[key]
        elif action < 0.25 and isinstance(copy, dict):
            copy[f"{key}_"] = copy.pop(key)
        elif action < 0.25:
            copy.append(copy[key])
        else:
            copy[key] = mutated_value(copy[key], random)
        return copy
    return random.choice(VALUES)
