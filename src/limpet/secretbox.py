"""NaCl's secretbox, opened: XSalsa20 and Poly1305 ("Cryptography in NaCl", Bernstein 2009, sections 5-9).

Only cosign's private keys need it, a few hundred bytes at a time, and `cryptography` has Poly1305 but not
Salsa20: twenty lines of integers are less than another compiled dependency on every device.
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.poly1305 import Poly1305

from limpet.errors import InvalidInputError

_NONCE_BYTES = 24
_TAG_BYTES = 16
_MASK = 0xFFFF_FFFF
_CONSTANTS = struct.unpack("<4I", b"expand 32-byte k")
# The words that each quarter round mixes: columns, then rows (salsa20 specification, section 7).
_ROUND = (
    (0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11),
    (0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14),
)  # fmt: skip


class SecretboxError(InvalidInputError):
    """A box that this key does not open, or that was changed."""

    reason = "InvalidBox"


def open_secretbox(box: bytes, *, nonce: bytes, key: bytes) -> bytes:
    """Return what is in a box (tag, then ciphertext). Raises `SecretboxError`."""
    if len(nonce) != _NONCE_BYTES or len(key) != 32 or len(box) < _TAG_BYTES:
        raise SecretboxError("a box has a tag of 16 bytes, a nonce of 24 and a key of 32")
    tag, ciphertext = box[:_TAG_BYTES], box[_TAG_BYTES:]
    stream = _xsalsa20(key, nonce, 32 + len(ciphertext))
    try:
        Poly1305.verify_tag(stream[:32], ciphertext, tag)
    except InvalidSignature as error:
        raise SecretboxError("the box was sealed with another key, or was changed") from error
    return bytes(a ^ b for a, b in zip(ciphertext, stream[32:], strict=True))


def _xsalsa20(key: bytes, nonce: bytes, length: int) -> bytes:
    mixed = _double_rounds(_state(key, nonce[:16]))
    subkey = struct.pack("<8I", *(mixed[word] for word in (0, 5, 10, 15, 6, 7, 8, 9)))
    blocks = []
    for counter in range(-(-length // 64)):
        state = _state(subkey, nonce[16:] + struct.pack("<Q", counter))
        mixed = _double_rounds(state)
        blocks.append(
            struct.pack("<16I", *((a + b) & _MASK for a, b in zip(state, mixed, strict=True)))
        )
    return b"".join(blocks)[:length]


def _state(key: bytes, block: bytes) -> tuple[int, ...]:
    c, k, n = _CONSTANTS, struct.unpack("<8I", key), struct.unpack("<4I", block)
    return (c[0], *k[:4], c[1], *n, c[2], *k[4:], c[3])


def _double_rounds(state: tuple[int, ...]) -> list[int]:
    words = list(state)
    for _ in range(10):
        for a, b, c, d in _ROUND:
            words[b] ^= _rotated(words[a] + words[d], 7)
            words[c] ^= _rotated(words[b] + words[a], 9)
            words[d] ^= _rotated(words[c] + words[b], 13)
            words[a] ^= _rotated(words[d] + words[c], 18)
    return words


def _rotated(value: int, bits: int) -> int:
    value &= _MASK
    return (value << bits | value >> (32 - bits)) & _MASK
