"""Updates far smaller than those that their caps come from keep their digits, and so do scales beside signs."""

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from fedmrn.codecs import Plane, codec_from
from fedmrn.methods import method
from fedmrn.server import Round, Server
from fedmrn.server.aggregate import Aggregator
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update

F32 = NDArray[np.float32]
LAYOUT = Layout.of([TensorSpec("a", (24,), Group.CODED), TensorSpec("b", (3,), Group.CODED)])
ASKED, WEIGHT = 10_000, 10**6
METHODS = [
    ("fedmrn", {"scale": "auto"}),
    ("fedmrn-s", {"scale": "auto"}),
    ("signsgd", {}),
    ("signsgd-vote", {}),
    ("terngrad", {}),
    ("fedbat", {}),
]


def after_a_round(name: str, options: dict[str, object], size: float) -> Server:
    server = Server(LAYOUT, method(name).scheme(options), np.zeros(LAYOUT.size, np.float32), bytes(16), run=bytes(16))
    round_ = server.begin(1, range(ASKED))
    for client in range(3):
        round_.add(client, frame_of(round_, client, size).to_bytes())
    round_.finish()
    return server


def frame_of(round_: Round, client: int, size: float, weight: int = WEIGHT) -> Frame:
    vector = (np.random.default_rng(client).standard_normal(LAYOUT.size) * size).astype(np.float32)
    return encode_update(round_.broadcast_frame(client), LAYOUT, vector, weight=weight, sampling_key=client)


def decoded(frame: Frame) -> tuple[F32, F32]:
    """The values, and the scale of each element."""
    section = frame.sections[0]
    opened = codec_from(section.codec, section.params).open(section.body, section.count, frame.noise_key, np.inf)
    values, scales, table = np.empty(section.count, np.float32), np.empty(section.count, np.float32), None
    opened.read(0, values)
    table = opened.tensor_scales()
    assert table is not None
    table.spread(0, scales)
    return values, scales


def off_by(mean: F32, rows: list[F32], scales: list[F32], weights: list[int]) -> float:
    """The largest error, over the mean scale of the element's tensor."""
    worst = 0.0
    for i in range(LAYOUT.size):
        exact = sum(w * Fraction(float(v[i])) for w, v in zip(weights, rows, strict=True)) / sum(weights)
        scale = sum(w * Fraction(float(s[i])) for w, s in zip(weights, scales, strict=True)) / sum(weights)
        worst = max(worst, float(abs(Fraction(float(mean[i])) - exact) / scale))
    return worst


@pytest.mark.parametrize("size", [1e3, 1e-4, 1e-7, 1e-12])
@pytest.mark.parametrize(("name", "options"), METHODS, ids=[n for n, _ in METHODS])
def test_the_mean_keeps_its_digits_whatever_came_before(name: str, options: dict[str, object], size: float) -> None:
    server = after_a_round(name, options, 1e3)
    for clients in (1, 5):
        round_ = server.begin(2, range(ASKED))
        frames = [frame_of(round_, client, size) for client in range(clients)]
        for client, frame in enumerate(frames):
            round_.add(client, frame.to_bytes())
        rows, scales = zip(*map(decoded, frames), strict=True)
        plane = Plane.SCALE if name == "signsgd-vote" else Plane.VALUE
        mean = round_.aggregator.finish_plane(plane)
        wanted = scales if plane is Plane.SCALE else rows
        assert off_by(mean, list(wanted), list(scales), [WEIGHT] * clients) <= 2.0**-20


@pytest.mark.parametrize("name", ["signsgd", "signsgd-vote"])
def test_scales_beside_signs_keep_theirs(name: str) -> None:
    """Signs go up to 1, and scales of 1e-7 were summed in their units once."""
    server = after_a_round(name, {}, 1e-7)
    round_ = server.begin(2, range(ASKED))
    frame = frame_of(round_, 0, 1e-7)
    round_.add(0, frame.to_bytes())
    values, scales = decoded(frame)
    plane, wanted = (Plane.SCALE, scales) if name == "signsgd-vote" else (Plane.VALUE, values)
    assert off_by(round_.aggregator.finish_plane(plane), [wanted], [scales], [1]) <= 2.0**-20


def test_small_frames_among_others_come_in_any_order_and_any_tree() -> None:
    server = after_a_round("fedmrn", {"scale": "auto"}, 1e3)
    round_ = server.begin(2, range(ASKED))
    frames = [frame_of(round_, client, (1e3, 1e-7, 1e-12)[client % 3]) for client in range(9)]

    def sum_of(clients: list[int]) -> Aggregator:
        again = (
            Server(LAYOUT, server.scheme, server.state, bytes(16), run=bytes(16), round=1, carried=server.carried)
            .begin(2, range(ASKED))
            .aggregator
        )
        for client in clients:
            again.add(frames[client], frames[client].noise_key)
        return again

    whole = sum_of(list(range(9))).finish().tobytes()
    assert sum_of(list(range(8, -1, -1))).finish().tobytes() == whole
    for cut in (1, 3, 8):
        for first, second in ((range(cut), range(cut, 9)), (range(cut, 9), range(cut))):
            part = sum_of(list(first))
            part.merge(sum_of(list(second)))
            assert part.finish().tobytes() == whole


def test_memory_of_a_second_integer_is_spent_where_it_is_needed() -> None:
    server = after_a_round("fedmrn", {"scale": "auto"}, 1e3)
    round_ = server.begin(2, range(ASKED))
    total = round_.aggregator.sums.sums[Group.CODED]
    round_.add(0, frame_of(round_, 0, 10.0).to_bytes())
    round_.add(1, frame_of(round_, 1, 0.0).to_bytes())
    assert total.rest is None
    round_.add(2, frame_of(round_, 2, 1e-7).to_bytes())
    assert total.rest is not None
