"""Every codec of the table of methods: encode and decode, against a copy; one core.

The vector is normal, of the size of an update (standard deviation 0.003), in eight tensors; FedPM's is probabilities.
`bits` are those of the body that was measured, 8 * len(body) / elements.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
from hadamard import Vector
from harness import Agreement, Benchmark, Goal, Planned, of_one_scale
from limits import copy

from fedmrn.codecs import CHUNK, Bernoulli, Codec, EncodeKeys, Float8, Float16
from fedmrn.methods import METHODS
from fedmrn.wire.layout import Group

MOST = 30.0
LAST = 100  # the round at which schedules have ended
SHARED = "mrc"  # random codes have no goal


def codecs() -> dict[str, Codec]:
    """Return each codec that some method uses once, by the name of the first one."""
    found: dict[str, Codec] = {}
    for name, row in METHODS.items():
        fixed = of_one_scale(row)
        coded = [(name, row.scheme(fixed).codecs_at(LAST)[Group.CODED])]
        if "coding" in row.options:
            coded.append((f"{name}, entropy", row.scheme({**fixed, "coding": "entropy"}).codecs_at(LAST)[Group.CODED]))
        if "scale" in row.options:
            coded.append((f"{name}, auto", row.scheme({"scale": "auto"}).codecs_at(LAST)[Group.CODED]))
        for label, codec in coded:
            if codec not in found.values():
                found[label] = codec
    return {**found, "float16": Float16(), "float8": Float8()}


def one(name: str, codec: Codec, elements: int) -> Benchmark:
    """Build the benchmark of a codec."""
    x, state = update(elements)
    if isinstance(codec, Bernoulli):
        x = (1 / (1 + np.exp(-300 * x))).astype(np.float32)
    if codec.needs_state:
        codec, x = codec.bind(state), x * state
    keys = EncodeKeys(1, 2, (elements // 8,) * 8)
    body = codec.encode(x, keys)

    def check() -> dict[str, Agreement]:
        """Chunks read in another order are the same; and decoding is what `read` says, whatever the codec."""
        whole, reader = codec.decode(body, elements, keys.noise), codec.open(body, elements, keys.noise, np.inf)
        apart = 0.0
        for start in reversed(range(0, elements, CHUNK)):
            part = np.empty(min(CHUNK, elements - start), np.float32)
            reader.read(start, part)
            apart = max(apart, float(np.abs(part - whole[start : start + part.size]).max()))
        return {"decode": Agreement(apart, 0.0)}

    cases = {
        "encode": lambda: codec.encode(x, keys),
        "decode": lambda: codec.decode(body, elements, keys.noise),
        "copy": copy(elements),
    }
    goals = () if SHARED in name else (Goal("encode", MOST), Goal("decode", MOST))
    return Benchmark(
        name,
        elements,
        cases,
        ("copy",),
        check,
        goals=goals,
        limit=("copy", "memory: each element read and written once"),
        facts=lambda: {"bits": f"{8 * len(body) / elements:.3g}"},
    )


def update(elements: int) -> tuple[Vector, Vector]:
    """Return an update, and the state of which it is one (half of it zero, for pruned models)."""
    generator = np.random.default_rng(1)
    x = generator.standard_normal(elements, dtype=np.float32) * np.float32(0.003)
    state = np.where(generator.random(elements) < 0.5, np.float32(0), np.float32(1))
    return x, state.astype(np.float32)


def plan(quick: bool) -> Iterator[Planned]:
    """Yield a benchmark a codec."""
    elements, repetitions = (1 << 16, 2) if quick else (1 << 20, 9)
    for name, codec in codecs().items():
        yield partial(one, name, codec, elements), repetitions
