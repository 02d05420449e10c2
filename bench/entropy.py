"""Shorter masks (`CodedMask`, and `RandomCode`, which loses something), against plain bits and zlib on those; one core.

encode, decode              from the update to bytes, and back to values
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

from fedmrn.codecs import EncodeKeys, ShorterMask
from fedmrn.methods import METHODS
from fedmrn.wire.layout import Group

SCHEMES: dict[str, tuple[str, dict[str, float | str]]] = {
    "binary mask, coded": ("fedmrn", {"scale": 0.01, "coding": "entropy"}),
    "binary mask, random code": ("fedmrn-mrc", {"scale": 0.01}),
    "signed mask, random code": ("fedmrn-s-mrc", {"scale": 0.005}),
}
MOST = 30.0


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
    encode, decode = (by_width(30.0, 45.0), 8.0) if "random" in name else (MOST, MOST)
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


def plan(quick: bool) -> Iterator[Planned]:
    """Yield a benchmark a scheme."""
    for name in SCHEMES:
        yield (partial(coding, name, 1 << 16), 2) if quick else (partial(coding, name, 1 << 20), 9)
