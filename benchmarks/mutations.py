"""Bytes of a file, changed as damage and malice change them: by seed, so that each can be made again."""

import random

_LENGTHS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 10**12, 2**63 - 1, 2**64 - 1)
_EDGE = 256  # bytes at the beginning and at the end, where formats say what follows
_MOST = 1 << 20  # a file that repeated slices have made longer is cut here


def mutated(whole: bytes, other: bytes, random_numbers: random.Random) -> bytes:
    """A file with one to three changes, and never as it was.

    Args:
        whole: the file.
        other: another one of its kind, to take slices from.
        random_numbers: decide everything.
    """
    content = whole
    for _ in range(random_numbers.choice((1, 1, 1, 2, 3))):
        content = random_numbers.choice(_KINDS)(bytearray(content or b"\0"), other, random_numbers)[:_MOST]
    return content if content != whole else whole[:-1]


def _place(content: bytearray, random_numbers: random.Random) -> int:
    """Half of all changes are near one of the two ends."""
    size = len(content)
    edge = min(_EDGE, size)
    where = random_numbers.choice(("begin", "end", "any", "any"))
    if where == "any":
        return random_numbers.randrange(size)
    return random_numbers.randrange(edge) + (size - edge if where == "end" else 0)


def _flip(content: bytearray, _: bytes, random_numbers: random.Random) -> bytes:
    for _ in range(random_numbers.choice((1, 1, 2, 8))):
        content[_place(content, random_numbers)] ^= 1 << random_numbers.randrange(8)
    return bytes(content)


def _overwrite(content: bytearray, _: bytes, random_numbers: random.Random) -> bytes:
    content[_place(content, random_numbers)] = random_numbers.choice((0, 1, 9, 10, 34, 44, 45, 91, 123, 127, 128, 255))
    return bytes(content)


def _length(content: bytearray, _: bytes, random_numbers: random.Random) -> bytes:
    """A number where a length may stand, in either byte order."""
    width = random_numbers.choice((1, 2, 4, 8))
    value = random_numbers.choice(_LENGTHS) % 256**width
    at = _place(content, random_numbers)
    content[at : at + width] = value.to_bytes(width, random_numbers.choice(("little", "big")))
    return bytes(content)


def _digit(content: bytearray, _: bytes, random_numbers: random.Random) -> bytes:
    """A decimal digit, as headers in words have them, or more of them."""
    places = [i for i, byte in enumerate(content) if 48 <= byte <= 57]
    if not places:
        return _flip(content, b"", random_numbers)
    at = random_numbers.choice(places)
    content[at : at + 1] = random_numbers.choice((b"0", b"9", b"-1", b"999999999999", b"1e999", b"1.5"))
    return bytes(content)


def _cut(content: bytearray, _: bytes, random_numbers: random.Random) -> bytes:
    at = _place(content, random_numbers)
    return bytes(content[at:] if random_numbers.random() < 0.1 else content[:at])


def _without(content: bytearray, _: bytes, random_numbers: random.Random) -> bytes:
    at = _place(content, random_numbers)
    return bytes(content[:at] + content[at + random_numbers.choice((1, 2, 8, 64)) :])


def _insert(content: bytearray, _: bytes, random_numbers: random.Random) -> bytes:
    at = _place(content, random_numbers)
    return bytes(content[:at]) + random_numbers.randbytes(random_numbers.choice((1, 4, 32))) + bytes(content[at:])


def _repeat(content: bytearray, _: bytes, random_numbers: random.Random) -> bytes:
    at, width = _place(content, random_numbers), random_numbers.choice((1, 8, 64, 512))
    some = bytes(content[at : at + width])
    return bytes(content[:at]) + some * random_numbers.choice((2, 3, 200)) + bytes(content[at + width :])


def _exchange(content: bytearray, _: bytes, random_numbers: random.Random) -> bytes:
    first, second = sorted(_place(content, random_numbers) for _ in range(2))
    width = min(random_numbers.choice((1, 4, 32)), second - first)
    here, there = content[first : first + width], content[second : second + width]
    content[first : first + len(here)], content[second : second + len(there)] = there, here
    return bytes(content)


def _splice(content: bytearray, other: bytes, random_numbers: random.Random) -> bytes:
    at, width = _place(content, random_numbers), random_numbers.choice((8, 64, 512))
    start = random_numbers.randrange(max(len(other) - width, 1))
    return bytes(content[:at]) + other[start : start + width] + bytes(content[at + width :])


_KINDS = (
    _flip,
    _flip,
    _overwrite,
    _length,
    _length,
    _digit,
    _digit,
    _cut,
    _without,
    _insert,
    _repeat,
    _exchange,
    _splice,
)
