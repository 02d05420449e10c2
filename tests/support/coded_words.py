"""What the coders write, and read again, for seeded masks and numbers: run as a program, it prints a digest."""

import sys
from hashlib import sha256

import numpy as np

from fedmrn.codecs import EncodeKeys, InterleavedMask, MaskedNoise
from fedmrn.numerics.integers import decode_integers, encode_integers
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec

COUNTS = (*range(1, 301), 65_535, 65_536, (1 << 19) - 1, (1 << 19) + 1)


def digest() -> str:
    """Return the digest of all bytes."""
    found, random = sha256(), np.random.Generator(np.random.Philox(5))
    for count in COUNTS:
        normal = random.standard_normal(count).astype(np.float32)
        sizes = (count // 3, count - count // 3)
        for k, law in enumerate(Law):
            codec, keys = (
                InterleavedMask(MaskedNoise(NoiseSpec(law, 0.01), MaskType(k % 2)), 5),
                EncodeKeys(3, k, sizes),
            )
            body = codec.encode(normal * np.float32(0.003), keys)
            found.update(body + codec.decode(body, count, keys.noise).tobytes())
        whole = np.rint(normal * 3).astype(np.int32)
        data = encode_integers(whole, sizes)
        found.update(data + decode_integers(data, sizes).tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    sys.stdout.write(digest())
