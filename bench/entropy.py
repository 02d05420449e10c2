"""Shorter masks (`InterleavedMask`, and `RandomCode`, which loses something), against plain bits and zlib on those.

One core; and small whole numbers by the same coder.

encode, decode              from the update to bytes, and back to values
sorted encode, ... decode   by codec 9, which sorts bits by context: the same mask
plain encode, plain decode  the same without coding: one bit an element
zlib encode, zlib decode    plain, and zlib (level 6) on the bits: what is at hand without knowing the noise
copy                        a copy of the vector
"""

import zlib
from collections.abc import Iterator
from functools import partial

import numpy as np
from every_codec import update
from harness import Agreement, Benchmark, Goal, Planned
from limits import by_width, copy

from fedmrn.codecs import CodedMask, EncodeKeys, InterleavedMask, ShorterMask
from fedmrn.methods import METHODS
from fedmrn.numerics.integers import decode_integers, encode_integers
from fedmrn.wire.layout import Group

SCHEMES: dict[str, tuple[str, dict[str, float | str]]] = {
    "binary mask, coded": ("fedmrn", {"scale": 0.01, "coding": "entropy"}),
    "binary mask, random code": ("fedmrn-mrc", {"scale": 0.01}),
    "signed mask, random code": ("fedmrn-s-mrc", {"scale": 0.005}),
}


def coding(name: str, elements: int) -> Benchmark:
    """Build the benchmark of one way to code."""
    method, options = SCHEMES[name]
    coded = METHODS[method].scheme(options).codecs[Group.CODED]
    if not isinstance(coded, ShorterMask):
        raise TypeError(f"{method} does not code its masks")
    plain, x = coded.inner, update(elements)[0]
    keys = EncodeKeys(1, 2, (elements // 8,) * 8)
    body, bits = coded.encode(x, keys), plain.encode(x, keys)
    packed = zlib.compress(bits)

    def check() -> dict[str, Agreement]:
        """Both decode to the codeword nearest in law: coded without loss, to the same one."""
        found = coded.decode(body, elements, keys.noise)
        if "random" in name:  # other draws, nearly the same law: the mean of what is kept agrees within six deviations
            apart = abs(
                float(found.sum(dtype=np.float64) - plain.decode(bits, elements, keys.noise).sum(dtype=np.float64))
            )
            return {"decode": Agreement(apart, 6 * 0.01 * (2 * elements) ** 0.5)}
        return {"decode": Agreement(float(np.abs(found - plain.decode(bits, elements, keys.noise)).max()), 0.0)}

    cases = {
        "encode": lambda: coded.encode(x, keys),
        "decode": lambda: coded.decode(body, elements, keys.noise),
        "plain encode": lambda: plain.encode(x, keys),
        "plain decode": lambda: plain.decode(bits, elements, keys.noise),
        "zlib encode": lambda: zlib.compress(plain.encode(x, keys)),
        "zlib decode": lambda: plain.decode(zlib.decompress(packed), elements, keys.noise),
        "copy": copy(elements),
    }
    sizes = {"bits": body, "plain bits": bits, "zlib bits": packed}
    encode, decode = by_width(30.0, 45.0), 8.0
    if isinstance(coded, InterleavedMask):
        other = CodedMask(coded.inner, coded.buckets)
        by_other = other.encode(x, keys)
        cases["sorted encode"] = lambda: other.encode(x, keys)
        cases["sorted decode"] = lambda: other.decode(by_other, elements, keys.noise)
        sizes["sorted bits"] = by_other
        encode = decode = by_width(6.0, 9.0)
    return Benchmark(
        name,
        elements,
        cases,
        ("copy", "plain decode", "zlib decode"),
        check,
        goals=(Goal("encode", encode), Goal("decode", decode)),
        limit=("plain decode", "the noise and the mask alone"),
        facts=lambda: {k: f"{8 * len(v) / elements:.3f}" for k, v in sizes.items()},
    )


def numbers(elements: int) -> Benchmark:
    """Build the benchmark of small whole numbers: rounded normal ones, of which one in ten thousand is far."""
    normal = np.random.Generator(np.random.Philox(1)).standard_normal(elements)
    whole = np.rint(1.5 * normal).astype(np.int32)
    whole[::10_000] *= 1000
    sizes = (elements // 64,) * 64  # a table each
    data = encode_integers(whole, sizes)

    def check() -> dict[str, Agreement]:
        return {"decode": Agreement(float(np.abs(decode_integers(data, sizes) - whole).max()), 0.0)}

    return Benchmark(
        "whole numbers",
        elements,
        {
            "encode": lambda: encode_integers(whole, sizes),
            "decode": lambda: decode_integers(data, sizes),
            "zlib encode": lambda: zlib.compress(np.clip(whole, -128, 127).astype(np.int8).tobytes()),
            "copy": copy(elements),
        },
        ("copy", "zlib encode"),
        check,
        goals=(Goal("encode", 10.0), Goal("decode", 10.0)),
        limit=("copy", "a copy of the numbers"),
        facts=lambda: {"bits": f"{8 * len(data) / elements:.3f}"},
    )


def plan(quick: bool) -> Iterator[Planned]:
    """Yield a benchmark a scheme, and one of whole numbers."""
    yield (partial(numbers, 1 << 16), 2) if quick else (partial(numbers, 1 << 20), 9)
    for name in SCHEMES:
        yield (partial(coding, name, 1 << 16), 2) if quick else (partial(coding, name, 1 << 20), 9)
