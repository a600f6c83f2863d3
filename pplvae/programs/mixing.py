"""The mixing function of SplitMix64: 64-bit words of which all bits hang on all bits of what they are made of."""

import hashlib

from torch import Tensor

# Odd constants of SplitMix64, as signed 64-bit integers: torch's int64 arithmetic wraps round as C's unsigned does.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLY_1 = 0xBF58476D1CE4E5B9 - 2**64
_MULTIPLY_2 = 0x94D049BB133111EB - 2**64
LOWER = 2**32 - 1


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser, in place."""
    # torch shifts int64 arithmetically; the mask makes the shift logical.
    x.bitwise_xor_((x >> 30).bitwise_and_(2**34 - 1)).mul_(_MULTIPLY_1)
    x.bitwise_xor_((x >> 27).bitwise_and_(2**37 - 1)).mul_(_MULTIPLY_2)
    return x.bitwise_xor_((x >> 31).bitwise_and_(2**33 - 1))


def upper(words: Tensor) -> Tensor:
    """The upper 32 bits of words."""
    return (words >> 32).bitwise_and_(LOWER)


def unit(word: Tensor, like: Tensor) -> Tensor:
    """32 random bits as a number in (0, 1)."""
    return word.to(like.dtype).add_(0.5).mul_(2.0**-32)


def word_of(*address: int) -> int:
    """A signed 64-bit word for some integers."""
    text = ",".join(str(int(part)) for part in address).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)
