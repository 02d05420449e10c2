"""Small steps to begin with: what a client in another language gets right before it reads a frame."""

import struct
import zlib

import numpy as np

from fedmrn.methods import METHODS
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.numerics.rng import Purpose, Stream, domain
from fedmrn.wire.public import tag_of
from fedmrn.wire.variance import log_change
from making.federation import F32
from making.folder import Record

KEY = 0xF00D_FACE_8765_4321
AT = (0, 1, 2, 255, 256, 257, 767, 768, 1023, 1024, 2047, 2048, 65_535, 65_536)
FAR = (1 << 32, (1 << 40) + 1025, (1 << 62) + 3)
"""Places beyond 32 bits: whole numbers of JavaScript end at 2^53."""


def bits_of(values: F32) -> list[str]:
    """Return float32 numbers as texts of eight hexadecimal digits."""
    return [f"{bits:08x}" for bits in np.asarray(values, np.float32).view(np.uint32).tolist()]


def numbers() -> Record:
    """Return what `numbers.json` holds."""
    return {
        "methods": {name: row.id for name, row in METHODS.items()},
        "crc32": [{"bytes": data.hex(), "crc32": f"{zlib.crc32(data):08x}"} for data in (b"", b"123456789", bytes(40))],
        "words": [_words(purpose) for purpose in (Purpose.NOISE, Purpose.CODEBOOK, Purpose.ROTATION)],
        "noise": [_noise(law, scale) for law in Law for scale in (1.0, 0.01, 2.0**-80)],
        "float16": _halves(),
        "variances": _variances(),
        "run_tags": [{"run": run.hex(), "tag": tag_of(run).hex()} for run in (bytes(16), bytes(range(16)))],
    }


def _words(purpose: Purpose) -> Record:
    stream = Stream(KEY, domain(purpose))
    found = {str(at): f"{int(stream.words(at, at + 1)[0]):08x}" for at in (*AT, *FAR)}
    return {"key": f"{KEY:016x}", "domain": f"{domain(purpose):016x}", "words": found}


def _noise(law: Law, scale: float) -> Record:
    values = NoiseSpec(law, scale).chunk(KEY, 0, max(AT) + 1)
    found = dict(zip(map(str, AT), bits_of(values[list(AT)]), strict=True))
    return {
        "key": f"{KEY:016x}",
        "law": law.name.lower(),
        "scale": bits_of(np.array([scale], np.float32))[0],
        "noise": found,
    }


def _halves() -> list[Record]:
    """Float32 numbers that are rounded to 16 bits: ties to even, subnormal ones, the largest."""
    floats = np.array([1.0, -0.1, 2049.0, 2051.0, 65504.0, 2.0**-24, 2.0**-25, 3 * 2.0**-25, 1e-7, -0.0], np.float32)
    return [
        {"float32": bits, "float16": struct.pack(">e", value).hex()}
        for bits, value in zip(bits_of(floats), floats.tolist(), strict=True)
    ]


def _variances() -> list[Record]:
    """Changes of logarithms. None is near the middle of two float32, so that any good logarithm leads to it."""
    rows = [(1.0, 1.5), (0.25, 0.001), (0.0, 1.0), (1.0, 0.0), (2.0**-70, 2.0**-65), (3e4, 3.0001e4), (1e-3, 1e-3)]
    before, after = (np.array(column, np.float32) for column in zip(*rows, strict=True))
    columns = (bits_of(before), bits_of(after), bits_of(log_change(before, after)))
    return [{"before": b, "after": a, "change": c} for b, a, c in zip(*columns, strict=True)]
