"""Public models: what a round costs the server that sends differences, and the client that reads them.

choose            the next public model of an exact state
write difference  from two public models to the bytes between them
read difference   from those bytes, and the model that is held, to the values; the digest is checked
write whole, ...  the same without a model that is held
write float32     the exact broadcast: its bytes are views, and its checksum is not in any of these
copy              a copy of the vector
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
from harness import Agreement, Benchmark, Goal, Planned
from limits import copy

from fedmrn.server import PublicGrid
from fedmrn.wire.frame import Frame, Kind
from fedmrn.wire.held import Held
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import read_state, state_sections
from fedmrn.wire.public import PublicModel, public_sections, tag_of

_TENSORS = 8


def public_model(elements: int) -> Benchmark:
    """Build the benchmark of a state that moves by a fifth of what it has moved: a model of some rounds before."""
    layout = Layout.of(TensorSpec(f"w{i}", (elements // _TENSORS,), Group.CODED) for i in range(_TENSORS))
    rng, grid, tag = np.random.Generator(np.random.Philox(1)), PublicGrid(from_start=True), tag_of(bytes(16))
    start = np.zeros(elements, np.float32)
    before = rng.laplace(0, 0.01, elements).astype(np.float32)
    state = before + rng.laplace(0, 0.002, elements).astype(np.float32)
    first = grid.next(layout, Group.CODED, None, before, start)
    then = grid.next(layout, Group.CODED, first, state, start)

    def model(number: int) -> PublicModel:
        return PublicModel(layout, number, {Group.CODED: (first, then)[number - 1]}, None)

    old, new = model(1), model(2)

    def frame(base: PublicModel | None) -> Frame:
        sections = public_sections(new, tag, base)
        return Frame(Kind.BROADCAST, 2, 2, 0, layout.digest, 0, sections)

    difference, whole, held = frame(old), frame(None), Held(layout)
    read_state(Frame(Kind.BROADCAST, 2, 1, 0, layout.digest, 0, public_sections(old, tag)), layout, held)

    def read(what: Frame) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return read_state(what, layout, held if what is difference else Held(layout))

    def check() -> dict[str, Agreement]:
        found = {"read difference": read(difference), "read whole": read(whole)}
        return {name: Agreement(float(np.abs(values - new.values).max()), 0.0) for name, values in found.items()}

    def bits(what: Frame) -> str:
        return f"{8 * len(what.to_bytes()) / elements:.3f}"

    return Benchmark(
        "public model",
        elements,
        {
            "choose": lambda: grid.next(layout, Group.CODED, first, state, start),
            "write difference": lambda: model(2).differences(old),
            "read difference": lambda: read(difference),
            "write whole": lambda: model(2).bodies,
            "read whole": lambda: read(whole),
            "write float32": lambda: state_sections(layout, state),
            "copy": copy(elements),
        },
        ("copy",),
        check,
        goals=(Goal("write difference", 10.0), Goal("read difference", 10.0)),
        limit=("copy", "a copy of the values"),
        facts=lambda: {"difference, bits": bits(difference), "whole, bits": bits(whole)},
    )


def plan(quick: bool) -> Iterator[Planned]:
    """Yield the benchmark."""
    yield (partial(public_model, 1 << 16), 2) if quick else (partial(public_model, 1 << 20), 9)
