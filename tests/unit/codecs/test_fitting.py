"""What codecs can hold: a finite vector that a codec says it holds is written, and one that is fitted is taken."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fedmrn.codecs import Codec, EncodeKeys, Levels, Sparse
from fedmrn.errors import EncodeError
from fedmrn.methods.method import DOWN, SIDE

KEYS = EncodeKeys(1, 2)
ALL = {
    **SIDE,
    **{f"down {name}": coded for name, (coded, _) in DOWN.items()},
    "sparse 16": Sparse(0.5, 16),
    "sparse": Sparse(0.5),
    "two levels": Levels(1, 3),
}
each_codec = pytest.mark.parametrize("codec", ALL.values(), ids=list(ALL))
vectors = hnp.arrays(
    np.float32,
    st.integers(0, 300),
    elements=st.one_of(
        st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from([0.0, 65504.0, 65519.0, 65520.0])
    ),
)


@each_codec
@settings(deadline=None)  # the first call compiles
@given(vector=vectors)
def test_what_a_codec_holds_can_be_written_and_read(codec: Codec, vector: NDArray[np.float32]) -> None:
    if codec.holds(vector):
        assert np.isfinite(codec.decode(codec.encode(vector, KEYS), vector.size, 1)).all()


@each_codec
def test_ordinary_values_are_held_and_left_alone(codec: Codec) -> None:
    vector = np.random.default_rng(1).normal(0, 100, 300).astype(np.float32)
    assert codec.holds(vector)
    assert codec.fitted(vector, 65536.0) is vector
    assert codec.holds(vector[:0])
    assert codec.fitted(vector[:0], 65536.0).size == 0


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("down eden4", "down eden3", "down eden2")])
@settings(deadline=None)  # the first call compiles
@given(vector=vectors, limit=st.sampled_from([65536.0, 1.0, 0.1, 60001.0, 1e30, 65519.0]))
def test_what_is_fitted_is_taken_by_a_receiver_with_this_limit(
    name: str, vector: NDArray[np.float32], limit: float
) -> None:
    codec, before = ALL[name], vector.copy()
    fitted = codec.fitted(vector, limit)
    assert codec.holds(fitted)
    assert vector.tobytes() == before.tobytes()
    codec.open(codec.encode(fitted, KEYS), vector.size, 1, limit)
    assert (np.sign(fitted) == np.sign(vector)).all()
    assert (np.abs(fitted) <= np.abs(vector)).all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("float32", [65536.0, -65536.0, 1.5]), ("float16", [65504.0, -65504.0, 1.5])],
)
def test_values_are_clipped_to_the_largest(name: str, expected: list[float]) -> None:
    assert SIDE[name].fitted(np.array([1e6, -3e38, 1.5], np.float32), 65536.0).tolist() == expected
    assert SIDE[name].fitted(np.array([65519.0, 3.0], np.float32), 65536.0).max() <= 65519.0


def test_levels_cut_the_loudest_of_a_block_only() -> None:
    vector = np.ones(150, np.float32)
    vector[[3, 4, 70]] = (1e6, -60000.0, 65000.0)
    fitted = SIDE["levels"].fitted(vector, 65536.0)
    assert (fitted[[0, 5, 63, 64, 70, 149]] == vector[[0, 5, 63, 64, 70, 149]]).all()
    assert fitted[3] == -fitted[4]
    assert abs(float(np.linalg.norm(fitted[:64].astype(np.float64))) / 65536 - 1) < 2.0**-18
    assert fitted[3] == pytest.approx(65536 / np.sqrt(2), rel=2.0**-18)


def test_a_scale_beyond_float32_is_not_held() -> None:
    assert not SIDE["levels"].holds(np.full(64, 3e38, np.float32))
    assert not SIDE["float16"].holds(np.array([65520], np.float32))
    assert SIDE["float16"].holds(np.array([65519], np.float32))
    large = np.full(1 << 16, 2.0**120, np.float32)
    rotated = DOWN["eden4"][0]
    assert not rotated.holds(large)
    with pytest.raises(EncodeError):
        rotated.encode(large, KEYS)
    loudest = np.zeros(1 << 16, np.float32)
    loudest[5] = 2.0**96
    for vector in (loudest, np.full(1 << 16, 2.0**96, np.float32)):
        for name in ("eden4", "eden3", "eden2"):
            codec = DOWN[name][0]
            assert codec.holds(vector)
            assert np.isfinite(codec.decode(codec.encode(vector, KEYS), vector.size, 1)).all()
