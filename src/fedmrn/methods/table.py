"""The table of methods: everything that can be compared, a row each. `docs/methods.md` has a section a row."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from fedmrn.codecs import (
    Bernoulli,
    Codec,
    Levels,
    MaskedNoise,
    NoiseScale,
    OwnScale,
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
)
from fedmrn.errors import ConfigError
from fedmrn.methods.method import Method, Options
from fedmrn.methods.option import NumberOption, ReadBy, WholeOption, by_name
from fedmrn.methods.options import (
    BINARY,
    BINARY_SCALE,
    LAW,
    MERGE,
    RANDOM_CODE,
    SIGNED,
    SIGNED_SCALE,
    SPARSITY,
    TOPK,
    keep,
)
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import NoiseSpec
from fedmrn.server.rules import MajorityVote, MeanMask, MergePruned, Prune, check_binarisation
from fedmrn.server.schedule import CubicSchedule
from fedmrn.text import nearest


def _scaled(scale: NoiseScale, masks: MaskedNoise | ShorterMask) -> Codec:
    return OwnScale(masks) if scale.follows_update else masks


def _masked(mask: MaskType, *, stochastic: bool = True) -> Callable[[Options], Codec]:
    def codec(o: Options) -> Codec:
        noise = NoiseSpec(o["noise"], o["scale"].of_parameters)
        return _scaled(o["scale"], o["coding"](MaskedNoise(noise, mask, stochastic)))

    return codec


def _random_code(mask: MaskType) -> Callable[[Options], Codec]:
    def codec(o: Options) -> Codec:
        masked = MaskedNoise(NoiseSpec(o["noise"], o["scale"].of_parameters), mask)
        return _scaled(o["scale"], RandomCode(masked, o["buckets"], o["log2_states"], o["rate"]))

    return codec


def _learned_sign(o: Options) -> Codec:
    check_binarisation(o["warmup"], o["rho"])  # the local rule's, but a mistake should be told before training
    return Sign(SignRule.LEARNED)


def _rotated(bits: int, scale: ScaleRule = ScaleRule.UNBIASED) -> Callable[[Options], Codec]:
    return lambda o: Rotated(bits, scale, keep=o["keep"])


def _schedule(o: Options) -> CubicSchedule:
    return CubicSchedule(o["sparsity"], o["rounds"], o["start"], o["every"])


_ROWS = (
    Method(id=1, name="fedavg", summary="float32 updates, the reference", local="plain", codec=lambda _: Raw()),
    Method(
        id=2,
        name="fedmrn",
        summary="masked random noise, binary mask {0, n}: one bit a parameter",
        local="masked-noise",
        codec=_masked(MaskType.BINARY),
        options=BINARY,
    ),
    Method(
        id=3,
        name="fedmrn-s",
        summary="masked random noise, signed mask {-n, n}: one bit a parameter",
        local="masked-noise",
        codec=_masked(MaskType.SIGNED),
        options=SIGNED,
    ),
    Method(
        id=4,
        name="signsgd",
        summary="signs, and the mean magnitude a tensor: one bit",
        local="plain",
        codec=lambda _: Sign(),
    ),
    Method(
        id=5,
        name="signsgd-stochastic",
        summary="random signs of +-max|x| a tensor, unbiased: one bit",
        local="plain",
        codec=lambda _: Sign(SignRule.STOCHASTIC),
    ),
    Method(
        id=6,
        name="topk",
        summary="the elements of largest magnitude, no error feedback",
        local="plain",
        codec=lambda o: Sparse(o["density"], o["bits"]),
        options=TOPK,
    ),
    Method(
        id=7,
        name="terngrad",
        summary="random {-s, 0, s}, s a tensor, of clipped values",
        local="plain",
        codec=lambda o: Ternary(o["clip"]),
        options=by_name(
            NumberOption(name="clip", default=2.5, words="magnitudes are clipped to this many root mean squares")
        ),
    ),
    Method(
        id=8,
        name="qsgd",
        summary="random rounding to levels of a bucket's norm",
        local="plain",
        codec=lambda o: Levels(o["levels"], o["bucket"]),
        options=by_name(
            WholeOption(name="levels", default=7, words="positive levels, 1 to 127"),
            WholeOption(name="bucket", default=128, words="elements that share a norm"),
        ),
    ),
    Method(
        id=9,
        name="drive",
        summary="rotation and signs, unbiased (EDEN at 1 bit): one bit",
        local="plain",
        codec=_rotated(1),
        options=keep(1.0),
    ),
    Method(
        id=10,
        name="drive-mse",
        summary="rotation and signs, least error: one bit",
        local="plain",
        codec=_rotated(1, ScaleRule.MSE),
        options=keep(1.0),
    ),
    Method(
        id=11,
        name="eden2",
        summary="rotation and 2-bit centroids, unbiased",
        local="plain",
        codec=_rotated(2),
        options=keep(1.0),
    ),
    Method(
        id=12,
        name="eden4",
        summary="rotation and 4-bit centroids, unbiased",
        local="plain",
        codec=_rotated(4),
        options=keep(1.0),
    ),
    Method(
        id=13,
        name="eden-half",
        summary="EDEN below one bit: a random part of the elements, unbiased",
        local="plain",
        codec=_rotated(1),
        options=keep(0.5),
    ),
    Method(
        id=14,
        name="signsgd-vote",
        summary="signs, and the server takes the majority's: one bit",
        local="plain",
        codec=lambda _: Sign(),
        rule=lambda _: MajorityVote(),
    ),
    Method(
        id=15,
        name="topk-ef",
        summary="the elements of largest magnitude, clients keep the rest",
        local="error-feedback",
        codec=lambda o: Sparse(o["density"], o["bits"]),
        options=TOPK,
    ),
    Method(
        id=16,
        name="fedbat",
        summary="random signs with a learned scale a tensor: one bit",
        local="learned-sign",
        codec=_learned_sign,
        options=by_name(
            NumberOption(
                name="warmup", default=0.5, words="share of the steps without binarisation", read_by=ReadBy.CLIENT
            ),
            NumberOption(name="rho", default=6.0, words="how fast scales move", read_by=ReadBy.CLIENT),
        ),
    ),
    Method(
        id=17,
        name="fedpm",
        summary="random masks of frozen weights: one bit",
        local="probability-mask",
        codec=lambda o: Bernoulli(o["seed"]),
        options=by_name(
            WholeOption(name="seed", default=1, words="of the frozen weights", follows="seed"),
            WholeOption(name="samples", default=3, words="sampled models that are evaluated", read_by=ReadBy.RULE),
        ),
        rule=lambda o: MeanMask(o["seed"], samples=o["samples"]),
        weighted=False,
        optimizer="adam",
    ),
    Method(
        id=18,
        name="fedsparsify-global",
        summary="weights pruned on a schedule by the server: values only",
        local="support",
        codec=lambda _: Support(),
        options=by_name(*SPARSITY),
        rule=lambda o: Prune(_schedule(o)),
    ),
    Method(
        id=19,
        name="fedsparsify-local",
        summary="weights pruned on a schedule by clients: values and places",
        local="weights",
        codec=lambda _: Sparse(1.0),
        options=by_name(*SPARSITY, MERGE),
        rule=lambda o: MergePruned(_schedule(o), o["merge"]),
    ),
    Method(
        id=20,
        name="fedmrn-no-pm",
        summary="ablation of fedmrn: every element masked from the first step",
        local="masked-noise",
        codec=_masked(MaskType.BINARY),
        options=BINARY,
        fixed={"progressive": False},
        like="fedmrn",
    ),
    Method(
        id=21,
        name="fedmrn-no-sm",
        summary="ablation of fedmrn: the nearer codeword in place of a sample",
        local="masked-noise",
        codec=_masked(MaskType.BINARY, stochastic=False),
        options=BINARY,
        fixed={"stochastic": False},
        like="fedmrn",
    ),
    Method(
        id=22,
        name="fedmrn-post",
        summary="ablation of fedmrn: train freely, mask once at the end",
        local="plain",
        codec=_masked(MaskType.BINARY),
        options=BINARY,
        like="fedmrn",
    ),
    Method(
        id=23,
        name="fedmrn-mrc",
        summary="fedmrn by minimal random coding: names one of many shared masks",
        local="masked-noise",
        codec=_random_code(MaskType.BINARY),
        options=by_name(LAW, BINARY_SCALE, *RANDOM_CODE),
        like="fedmrn",
    ),
    Method(
        id=24,
        name="fedmrn-s-mrc",
        summary="fedmrn-s by minimal random coding: names one of many shared masks",
        local="masked-noise",
        codec=_random_code(MaskType.SIGNED),
        options=by_name(LAW, SIGNED_SCALE, *RANDOM_CODE),
        like="fedmrn-s",
    ),
)
METHODS: Mapping[str, Method] = MappingProxyType({m.name: m for m in _ROWS})


def method(name: str) -> Method:
    """Return the method of this name.

    Raises:
        ConfigError: if there is none; the message suggests the nearest.
    """
    if name not in METHODS:
        raise ConfigError(f"method {name!r} does not exist{nearest(name, METHODS)}")
    return METHODS[name]
