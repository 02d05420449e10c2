"""What every codec promises. A new codec joins by being in the registry, and adds examples of itself to `EXAMPLES`.

The law of the values (unbiased, sign, top-k, ...) is each codec's own, tested elsewhere; here is what the fold needs.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from allocated import allocated
from fedmrn.codecs import (
    CHUNK,
    CODECS,
    DENSITY,
    NOISE_SCALE,
    Bernoulli,
    Codec,
    CodedMask,
    EncodeKeys,
    Float8,
    Float16,
    InterleavedMask,
    Levels,
    MaskCodec,
    MaskedNoise,
    Opened,
    OwnScale,
    Plane,
    RandomCode,
    Raw,
    Rotated,
    ScaleRule,
    ShorterMask,
    Sign,
    SignRule,
    Sparse,
    Support,
    Ternary,
    ToldScale,
    codec_from,
)
from fedmrn.errors import ConfigError, EncodeError, FrameError, MalformedFrameError
from fedmrn.methods import METHODS
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.numerics.rng import Stream
from fedmrn.numerics.rotation import blocks
from fedmrn.wire.layout import Group

F32 = NDArray[np.float32]
EXAMPLES: dict[str, Codec] = {
    "raw": Raw(),
    **{
        f"masked-noise {law.name.lower()} {mask.name.lower()} {scale:g}": MaskedNoise(NoiseSpec(law, scale), mask)
        for law in Law
        for mask in MaskType
        for scale in (0.01, 2.0**-80, 2.0**80)
    },
    "masked-noise without sampling": MaskedNoise(NoiseSpec(Law.UNIFORM, 0.01), MaskType.BINARY, stochastic=False),
    **{
        f"coded mask {law.name.lower()} {mask.name.lower()} {buckets}": CodedMask(
            MaskedNoise(NoiseSpec(law, 0.01), mask), buckets
        )
        for law in Law
        for mask in MaskType
        for buckets in (1, 16, 64)
    },
    **{
        f"interleaved mask {law.name.lower()} {mask.name.lower()} {buckets}": InterleavedMask(
            MaskedNoise(NoiseSpec(law, 0.01), mask), buckets
        )
        for law in Law
        for mask in MaskType
        for buckets in (1, 16)
    },
    "coded mask without sampling": CodedMask(
        MaskedNoise(NoiseSpec(Law.UNIFORM, 0.01), MaskType.BINARY, stochastic=False)
    ),
    **{
        f"random code {law.name.lower()} {mask.name.lower()} {buckets} {log2_states} {rate}": RandomCode(
            MaskedNoise(NoiseSpec(law, 0.01), mask), buckets, log2_states, rate
        )
        for law in Law
        for mask in MaskType
        for buckets, log2_states, rate in ((1, 1, 1.0), (16, 4, 1.125), (64, 2, 2.0))
    },
    "random code without sampling": RandomCode(
        MaskedNoise(NoiseSpec(Law.UNIFORM, 0.01), MaskType.BINARY, stochastic=False)
    ),
    **{
        f"own scale {law.name.lower()} {mask.name.lower()} {name}": OwnScale(
            make(MaskedNoise(NoiseSpec(law, 1.0), mask))
        )
        for law, mask, name, make in (
            (Law.UNIFORM, MaskType.BINARY, "plain", lambda m: m),
            (Law.GAUSSIAN, MaskType.SIGNED, "plain", lambda m: m),
            (Law.UNIFORM, MaskType.BINARY, "coded", CodedMask),
            (Law.UNIFORM, MaskType.BINARY, "interleaved", InterleavedMask),
            (Law.BERNOULLI, MaskType.SIGNED, "random code", RandomCode),
        )
    },
    "told scale plain": ToldScale(MaskedNoise(NoiseSpec(Law.UNIFORM, 1.0), MaskType.BINARY)),
    "told scale coded": ToldScale(CodedMask(MaskedNoise(NoiseSpec(Law.GAUSSIAN, 1.0), MaskType.SIGNED))),
    "float16": Float16(),
    "float8": Float8(),
    "sign stochastic": Sign(SignRule.STOCHASTIC),
    "sign learned": Sign(SignRule.LEARNED, (0.01,)),
    "sparse 16 bits": Sparse(0.2, 16),
    "sparse dense": Sparse(1.0),
    "ternary without clipping": Ternary(0.0),
    "levels 1": Levels(1, 100),
    "levels 127": Levels(127),
    "rotated least error 4": Rotated(4, ScaleRule.MSE),
    "rotated a tenth": Rotated(2, keep=0.1),
    "bernoulli": Bernoulli((1 << 64) - 1),
    "support": Support(),
    **{f"method {m.name}": m.scheme().codecs[Group.CODED] for m in METHODS.values()},
}
SIZES = [1, 2, 31, 33, 8191, CHUNK + 1]
KEYS = EncodeKeys(noise=0xDEADBEEF00000001, sampling=42)
LIMIT = 65536.0
SCALES = 4 + 8 + 4
SCALED = OwnScale | ToldScale

each_codec = pytest.mark.parametrize("codec", EXAMPLES.values(), ids=EXAMPLES.keys())
each_size = pytest.mark.parametrize("size", SIZES)


def _vector(size: int, spread: float = 0.02) -> F32:
    return ((Stream(size, 0).uniform(0, size) - np.float32(0.5)) * np.float32(spread)).astype(np.float32)


def _bound(codec: Codec, size: int) -> Codec:
    """The codec for updates of a state without zeros, where it needs one: then every vector can be sent."""
    return codec.bind(np.ones(size, np.float32))


def _encode(codec: Codec, vector: F32, keys: EncodeKeys = KEYS) -> bytes:
    return _bound(codec, vector.size).encode(vector, keys)


def _open(codec: Codec, body: bytes, size: int) -> Opened:
    return _bound(codec, size).open(body, size, KEYS.noise, LIMIT)


def _decode(codec: Codec, body: bytes, size: int, key: int = KEYS.noise) -> F32:
    return _bound(codec, size).decode(body, size, key, LIMIT)


def test_every_codec_has_an_example() -> None:
    assert {type(c) for c in EXAMPLES.values()} == set(CODECS.values())


def test_the_registry() -> None:
    for number, codec in CODECS.items():
        assert codec.id == number
        assert 0 <= number <= 255
        assert codec.name
    assert len({c.name for c in CODECS.values()}) == len(CODECS)


@each_codec
def test_parameters_travel(codec: Codec) -> None:
    params = codec.params()
    assert isinstance(params, bytes)
    assert len(params) <= 255
    assert params == codec.params()
    found = codec_from(codec.id, params)
    assert type(found) is type(codec)
    assert found.params() == params
    body = _encode(codec, _vector(33))
    assert np.array_equal(_decode(found, body, 33), _decode(codec, body, 33))
    assert found.bound(LIMIT) == codec.bound(LIMIT)


@each_codec
def test_parameters_of_another_length_are_refused(codec: Codec) -> None:
    params = codec.params()
    for wrong in [params[:k] for k in range(len(params))] + [params + b"\0", params + params + b"\1", bytes(255)]:
        with pytest.raises(MalformedFrameError):
            codec_from(codec.id, wrong)


@each_codec
def test_any_parameters_are_accepted_canonically_or_refused(codec: Codec) -> None:
    """Each byte of the parameters set to each value: an accepted one is written again just so."""
    params = codec.params()
    refused = 0
    for at in range(len(params)):
        for value in range(256):
            changed = params[:at] + bytes([value]) + params[at + 1 :]
            try:
                found = codec_from(codec.id, changed)
            except MalformedFrameError:
                refused += 1
            else:
                assert found.params() == changed
    assert refused or not params or isinstance(codec, Bernoulli)  # any 64 bits are a seed


@each_codec
def test_binding_changes_nothing_that_travels(codec: Codec) -> None:
    bound = _bound(codec, 33)
    assert (bound.id, bound.params(), bound.planes) == (codec.id, codec.params(), codec.planes)
    assert bound == codec
    assert codec.needs_state or bound is codec


@each_codec
def test_each_plane_can_be_read_and_adds_up_within_the_bound(codec: Codec) -> None:
    """A plane is at most 1, or within the bound of the values: what the fold takes as given."""
    reader = _open(codec, _encode(codec, _vector(33)), 33)
    assert Plane.VALUE in codec.planes
    for plane in Plane:
        if plane not in codec.planes:
            continue
        out = np.full(33, np.nan, np.float32)
        reader.plane(plane).read(0, out)
        assert np.abs(out).max() <= max(1.0, codec.bound(LIMIT))


@each_codec
def test_folding_adds_what_is_read(codec: Codec) -> None:
    """Each value times the factor, rounded to the nearest integer, onto what is there; from any chunk on."""
    size, factor = CHUNK + 1000, 2.0**40 / codec.bound(LIMIT)
    opened = _open(codec, _encode(codec, _vector(size)), size)
    for start, stop in ((0, size), (CHUNK, size), (0, 1)):
        values = np.empty(stop - start, np.float32)
        for at in range(0, values.size, CHUNK):
            opened.read(start + at, values[at : at + CHUNK])
        expected = np.arange(values.size) + np.rint(values.astype(np.float64) * factor).astype(np.int64)
        for near in (True, False):
            total = np.arange(values.size)
            opened.fold(start, factor, near, total)
            assert np.array_equal(total, expected)


@each_codec
def test_what_is_observed_is_a_whole_number_a_tensor(codec: Codec) -> None:
    opened = _open(codec, _encode(codec, _vector(33)), 33)
    found = opened.observed([slice(0, 20), slice(20, 33)])
    for observable, numbers in found.items():
        assert [type(n) for n in numbers] == [int, int], "sums of integers do not depend on the order"
        assert np.isfinite(observable.mean(sum(numbers), 33, 1))
    assert len({o.name for o in found}) == len(found)
    masks = isinstance(codec, MaskCodec | Bernoulli)
    assert (DENSITY in found) is masks
    assert (NOISE_SCALE in found) is isinstance(codec, SCALED)
    if DENSITY in found:
        (ones,) = opened.observed([slice(0, 33)])[DENSITY]
        assert ones == sum(found[DENSITY])


@each_codec
def test_planes_that_are_not_listed_are_refused(codec: Codec) -> None:
    opened = _open(codec, _encode(codec, _vector(33)), 33)
    assert opened.plane(Plane.VALUE) is opened
    for plane in set(Plane) - codec.planes:
        with pytest.raises(ConfigError, match=f"no plane {plane.value}"):
            opened.plane(plane)


@each_codec
def test_another_mask_of_noise_in_the_place_of_its_own(codec: Codec) -> None:
    other = MaskedNoise(NoiseSpec(Law.GAUSSIAN, 1.0), MaskType.SIGNED, stochastic=False)
    masks = MaskCodec.of(codec)
    if masks is None:
        return
    assert masks.over(masks.masked) == codec
    assert type(masks.over(other)) is type(codec)
    assert masks.over(other).masked == other


def test_a_codec_of_a_class_or_none() -> None:
    coded = EXAMPLES["coded mask without sampling"]
    assert CodedMask.of(coded) is ShorterMask.of(coded) is Codec.of(coded) is coded
    assert MaskedNoise.of(coded) is RandomCode.of(coded) is Raw.of(None) is None


@each_codec
@each_size
def test_every_encoding_is_accepted_and_within_the_bound(codec: Codec, size: int) -> None:
    for vector in (_vector(size), _vector(size, 1000.0), np.zeros(size, np.float32)):
        kept = vector.copy()
        body = _encode(codec, vector)
        assert isinstance(body, bytes)
        assert np.array_equal(vector, kept), "encoding changed its input"
        values = _decode(codec, body, size)
        assert values.dtype == np.float32
        assert values.shape == (size,)
        assert np.isfinite(values).all()
        assert np.abs(values).max() <= codec.bound(LIMIT)


@each_codec
def test_a_vector_without_elements(codec: Codec) -> None:
    """A broadcast may ask for those of a group that a model lacks."""
    if isinstance(codec, Sign) and codec.learned:
        pytest.skip("its scales are those of other tensors")
    body = _encode(codec, np.empty(0, np.float32))
    assert _decode(codec, body, 0).shape == (0,)


@each_codec
@each_size
def test_decoding_is_a_function_of_the_bytes(codec: Codec, size: int) -> None:
    body = _encode(codec, _vector(size))
    values = _decode(codec, body, size)
    assert values.tobytes() == _decode(codec, body, size).tobytes()
    assert values.tobytes() == _decode(codec, memoryview(bytearray(body)), size).tobytes()  # type: ignore[arg-type]
    assert body == _encode(codec, _vector(size))


@each_codec
@each_size
def test_a_decoded_vector_is_a_fixed_point(codec: Codec, size: int) -> None:
    """What was decoded encodes to the same bytes whatever the sampling key: a codeword is its own nearest.

    Not so where a scale is computed from the vector (the decoded one has another norm), or elements are left out, or
    the codeword is only near.
    """
    if isinstance(codec, RandomCode):
        pytest.skip("it names a mask that is like the one asked for")
    if isinstance(codec, Levels | Rotated | SCALED):
        pytest.skip("its scale depends on the whole vector")
    body = _encode(codec, _vector(size))
    values = _decode(codec, body, size)
    assert _encode(codec, values, EncodeKeys(KEYS.noise, 7)) == body


@each_codec
@each_size
def test_without_its_coding_a_body_says_the_same(codec: Codec, size: int) -> None:
    body, plain = _encode(codec, _vector(size)), codec.uncoded
    bare = codec.uncode(body, size, KEYS.noise)
    assert plain.uncoded == plain
    assert plain.uncode(bare, size, KEYS.noise) == bare
    assert _decode(plain, bytes(bare), size).tobytes() == _decode(codec, body, size).tobytes()
    if isinstance(codec, ShorterMask):
        assert plain == codec.inner
        assert bare == codec.inner.encode(_vector(size), KEYS) or (isinstance(codec, RandomCode) and body[0] == 1)
    elif isinstance(codec, SCALED) and isinstance(codec.inner, ShorterMask):
        assert plain == type(codec)(codec.inner.inner)
        assert bytes(bare[:SCALES]) == body[:SCALES]
        assert bare == plain.encode(_vector(size), KEYS) or isinstance(codec.inner, RandomCode)
    else:
        assert plain is codec
        assert bare is body


@each_codec
@each_size
def test_every_other_length_is_refused(codec: Codec, size: int) -> None:
    """Every truncation of the body (of a large one: around the ends and the pieces), and some bytes more."""
    body = _encode(codec, _vector(size))
    lengths = set(range(len(body))) if len(body) < 300 else {0, 1, len(body) // 2, len(body) - 2, len(body) - 1}
    for length in lengths:
        with pytest.raises(FrameError):
            _open(codec, body[:length], size)
    for extra in (b"\0", b"\xff", body or b"\1"):
        with pytest.raises(FrameError):
            _open(codec, body + extra, size)


@each_codec
@pytest.mark.parametrize("count", [0, 1 << 31, 1 << 61, 1 << 62, 1 << 63, (1 << 64) - 1])
def test_a_body_of_another_count_is_refused_without_allocating(codec: Codec, count: int) -> None:
    """Of a codec that is bound to a state, whose size both sides know, it is a mistake of the caller."""
    body, codec = _encode(codec, _vector(33)), _bound(codec, 33)

    def refused() -> None:
        with pytest.raises(ConfigError if codec.needs_state else FrameError):
            codec.open(body, count, KEYS.noise, LIMIT)

    assert allocated(refused) < 64 << 10


@each_codec
@each_size
def test_pieces_equal_the_whole(codec: Codec, size: int) -> None:
    """Read from any multiple of CHUNK, in any order, any length: the same values as in one go."""
    size += 2 * CHUNK
    body = _encode(codec, _vector(size))
    whole = _decode(codec, body, size)
    reader = _open(codec, body, size)
    for start in reversed(range(0, size, CHUNK)):
        for length in (1, 7, 1000, CHUNK, size - start):
            out = np.full(min(length, size - start), np.nan, np.float32)
            reader.read(start, out)
            assert out.tobytes() == whole[start : start + out.size].tobytes()


@each_codec
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_refused(codec: Codec, value: float) -> None:
    for at in (0, 16, 32):
        vector = _vector(33)
        vector[at] = value
        with pytest.raises(EncodeError, match=f"1 of 33 .* the first at {at}"):
            _encode(codec, vector)


@each_codec
def test_a_vector_of_another_type_or_shape_is_refused(codec: Codec) -> None:
    for vector in (np.zeros(8), np.zeros((2, 4), np.float32), np.zeros(8, np.int32), np.float32(0)):
        with pytest.raises(EncodeError, match="float32 of one dimension"):
            codec.encode(np.asarray(vector), KEYS)


@each_codec
def test_strided_vectors_are_encoded_by_value(codec: Codec) -> None:
    wide = _vector(66)
    assert _encode(codec, wide[::2]) == _encode(codec, wide[::2].copy())


@each_codec
def test_the_extremes_of_float32_encode(codec: Codec) -> None:
    largest = np.finfo(np.float32).max
    vector = np.array([largest, -largest, 1e-45, -1e-45, 0.0, -0.0], np.float32)
    try:
        body = _encode(codec, vector)
    except EncodeError:  # a norm or a scale above what float32 holds; never an infinity on the wire
        assert not isinstance(codec, Raw | MaskedNoise)
        return
    values = _bound(codec, vector.size).decode(body, vector.size, KEYS.noise)
    assert np.isfinite(values).all()


# --- the exact lengths, and what only one codec promises --------------------------------------------------------------


@each_size
def test_lengths(size: int) -> None:
    """Worked out from docs/wire-format.md; those of `sparse` and shorter masks depend on values: they have tests."""
    for codec in EXAMPLES.values():
        match codec:
            case Raw() | Support():
                expected = 4 * size
            case Float16():
                expected = 2 * size
            case Float8():
                expected = 1 + size
            case MaskedNoise() | Bernoulli():
                expected = -(-size // 8)
            case Sign():  # one tensor: how many, its size, its scale
                expected = SCALES + -(-size // 8)
            case Ternary():
                expected = SCALES + -(-size // 5)
            case Levels(levels, block):
                expected = 4 * -(-size // block) + -(-size * (2 * levels).bit_length() // 8)
            case Rotated(bits, _, keep) if keep == 1:
                sizes = [b for _, b in blocks(size)]
                expected = 4 * len(sizes) + -(-bits * sum(sizes) // 8) + 4 * (size - sum(sizes))
            case _:
                continue
        assert len(_encode(codec, _vector(size))) == expected


@each_size
@pytest.mark.parametrize("name", [name for name, codec in EXAMPLES.items() if isinstance(codec, ShorterMask)])
def test_a_shorter_mask_is_never_longer_than_one_byte_more(name: str, size: int) -> None:
    codec = EXAMPLES[name]
    for vector in (_vector(size), _vector(size, 1000.0), np.zeros(size, np.float32)):
        body = _encode(codec, vector)
        assert len(body) <= 1 + -(-size // 8)
        assert body[0] == 1 or len(body) == 1 + -(-size // 8)


@each_size
def test_raw_is_exact(size: int) -> None:
    vector = _vector(size)
    body = Raw().encode(vector, KEYS)
    assert body == vector.astype("<f4").tobytes()
    assert _decode(Raw(), body, size).tobytes() == vector.tobytes()


@each_size
@pytest.mark.parametrize("mask", MaskType)
@pytest.mark.parametrize("law", Law)
def test_masked_noise_decodes_to_its_codewords(law: Law, mask: MaskType, size: int) -> None:
    codec = MaskedNoise(NoiseSpec(law, 0.01), mask)
    n = codec.noise.chunk(KEYS.noise, 0, size)
    lower = -n if mask is MaskType.SIGNED else np.zeros_like(n)
    vector = _vector(size)
    body = codec.encode(vector, KEYS)
    values = _decode(codec, body, size)
    upper = np.unpackbits(np.frombuffer(body, np.uint8), count=size, bitorder="little") == 1
    assert np.array_equal(values, np.where(upper, n, lower))
    other = _decode(codec, body, size, KEYS.noise ^ 1)
    assert law is Law.BERNOULLI or not np.array_equal(np.abs(other[upper]), np.abs(values[upper])) or not upper.any()
    assert codec.encode(n, KEYS) == np.packbits(np.ones(size, bool), bitorder="little").tobytes()
    assert codec.encode(lower, KEYS) == bytes(len(body))


def test_sampling_and_noise_keys_both_matter() -> None:
    vector = _vector(1000)
    codec = EXAMPLES["masked-noise uniform binary 0.01"]
    keys = [KEYS, EncodeKeys(KEYS.noise, 43), EncodeKeys(KEYS.noise + 1, 42)]
    assert len({codec.encode(vector, k) for k in keys}) == 3
