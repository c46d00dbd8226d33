"""Randomness as a pure function of where it is used, never of what was drawn before."""

from __future__ import annotations

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def _scramble(value: np.ndarray) -> np.ndarray:
    """Spread every input bit over the whole word (the finaliser of splitmix64)."""
    value = (value ^ (value >> np.uint64(30))) * _FIRST
    value = (value ^ (value >> np.uint64(27))) * _SECOND
    return value ^ (value >> np.uint64(31))


def mix(*parts: int | str | np.ndarray) -> np.ndarray:
    """Hash the parts to 64 bits; equal parts always give equal bits, on every machine.

    Args:
        parts: integers, names or integer arrays; arrays broadcast against each other.

    Returns:
        An unsigned 64-bit array of the broadcast shape (zero-dimensional for plain integers).

    Source: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators".
    """
    return mix_on(np.asarray(_GOLDEN), *parts)


def mix_on(state: np.ndarray, *parts: int | str | np.ndarray) -> np.ndarray:
    """Hash further parts: `mix_on(mix(a, b), c)` is `mix(a, b, c)`, where many `c` share few `a` and `b`.

    Args:
        state: what `mix` returned, broadcast against the parts.
        parts: as of `mix`.
    """
    with np.errstate(over="ignore"):
        for part in parts:
            if isinstance(part, str):
                part = int.from_bytes(hashlib.sha256(part.encode()).digest()[:8], "little")
            word = np.asarray(part)
            word = word.astype(np.uint64) if word.ndim else np.asarray(np.uint64(int(word) & 0xFFFFFFFFFFFFFFFF))
            state = _scramble(state * _FIRST + word + _GOLDEN)
        return state


def permutation(count: int, *parts: int | str) -> np.ndarray:
    """Order `count` things at random, the same order for the same parts.

    Returns:
        Every index below `count` once, # (count,)
    """
    return np.argsort(mix(*parts, np.arange(count)), kind="stable")


def seed_of(*parts: int | str) -> int:
    """A 32-bit seed for a library that wants one."""
    return int(mix(*parts) & np.uint64(0xFFFFFFFF))
