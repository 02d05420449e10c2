"""The table of methods: everything that can be compared, a row each. `docs/methods.md` has a section a row."""

from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import TypeVar

from fedmrn.codecs import (
    Bernoulli,
    Codec,
    CodedMask,
    Levels,
    MaskedNoise,
    RandomCode,
    Raw,
    Rotated,
    ScaleRule,
    Sign,
    SignRule,
    Sparse,
    Support,
    Ternary,
)
from fedmrn.errors import ConfigError
from fedmrn.methods.method import Method, Options, Value
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.server.rules import MajorityVote, MeanMask, Merge, MergePruned, Prune, check_binarisation
from fedmrn.server.schedule import CubicSchedule
from fedmrn.text import nearest

E = TypeVar("E", bound=Enum)


class Coding(Enum):
    """How the bits of a mask travel."""

    RAW = 0
    ENTROPY = 1


def _word(kind: type[E], word: str, what: str) -> E:
    names = {member.name.lower(): member for member in kind}
    if word not in names:
        raise ConfigError(f"{what} {word!r} does not exist{nearest(word, names)}")
    return names[word]


def _masked(mask: MaskType, *, stochastic: bool = True) -> Callable[[Options], Codec]:
    def codec(o: Options) -> Codec:
        raw = MaskedNoise(NoiseSpec(_word(Law, o["noise"], "noise law"), o["scale"]), mask, stochastic)
        return {Coding.RAW: raw, Coding.ENTROPY: CodedMask(raw)}[_word(Coding, o["coding"], "coding")]

    return codec


def _random_code(mask: MaskType) -> Callable[[Options], Codec]:
    def codec(o: Options) -> Codec:
        raw = MaskedNoise(NoiseSpec(_word(Law, o["noise"], "noise law"), o["scale"]), mask)
        return RandomCode(raw, o["buckets"], o["log2_states"], o["rate"])

    return codec


def _learned_sign(o: Options) -> Codec:
    check_binarisation(o["warmup"], o["rho"])  # the local rule's, but a mistake should be told before training
    return Sign(SignRule.LEARNED)


def _rotated(bits: int, scale: ScaleRule = ScaleRule.UNBIASED) -> Callable[[Options], Codec]:
    return lambda o: Rotated(bits, scale, keep=o["keep"])


def _schedule(o: Options) -> CubicSchedule:
    return CubicSchedule(o["sparsity"], o["rounds"], o["start"], o["every"])


_BINARY: Mapping[str, Value] = {"noise": "uniform", "scale": 0.01, "coding": "raw", "noise_key": "client"}
_SIGNED: Mapping[str, Value] = {"noise": "uniform", "scale": 0.005, "coding": "raw", "noise_key": "client"}
_CODE: Mapping[str, Value] = {"buckets": 16, "log2_states": 8, "rate": 1.125}
_WHOLE: Mapping[str, Value] = {"keep": 1.0}
_TOPK: Mapping[str, Value] = {"density": 0.03, "bits": 32}
# `rounds` is the length of the schedule.
_SPARSIFY: Mapping[str, Value] = {"sparsity": 0.97, "rounds": 100, "start": 0, "every": 1}

_ROWS = (
    Method(1, "fedavg", "float32 updates, the reference", "plain", lambda _: Raw()),
    Method(
        2,
        "fedmrn",
        "masked random noise, binary mask {0, n}: one bit a parameter",
        "masked-noise",
        _masked(MaskType.BINARY),
        _BINARY,
    ),
    Method(
        3,
        "fedmrn-s",
        "masked random noise, signed mask {-n, n}: one bit a parameter",
        "masked-noise",
        _masked(MaskType.SIGNED),
        _SIGNED,
    ),
    Method(4, "signsgd", "signs, and the mean magnitude a tensor: one bit", "plain", lambda _: Sign()),
    Method(
        5,
        "signsgd-stochastic",
        "random signs of +-max|x| a tensor, unbiased: one bit",
        "plain",
        lambda _: Sign(SignRule.STOCHASTIC),
    ),
    Method(
        6,
        "topk",
        "the elements of largest magnitude, no error feedback",
        "plain",
        lambda o: Sparse(o["density"], o["bits"]),
        _TOPK,
    ),
    Method(
        7,
        "terngrad",
        "random {-s, 0, s}, s a tensor, of clipped values",
        "plain",
        lambda o: Ternary(o["clip"]),
        {"clip": 2.5},
    ),
    Method(
        8,
        "qsgd",
        "random rounding to levels of a bucket's norm",
        "plain",
        lambda o: Levels(o["levels"], o["bucket"]),
        {"levels": 7, "bucket": 128},
    ),
    Method(9, "drive", "rotation and signs, unbiased (EDEN at 1 bit): one bit", "plain", _rotated(1), _WHOLE),
    Method(10, "drive-mse", "rotation and signs, least error: one bit", "plain", _rotated(1, ScaleRule.MSE), _WHOLE),
    Method(11, "eden2", "rotation and 2-bit centroids, unbiased", "plain", _rotated(2), _WHOLE),
    Method(12, "eden4", "rotation and 4-bit centroids, unbiased", "plain", _rotated(4), _WHOLE),
    Method(
        13,
        "eden-half",
        "EDEN below one bit: a random part of the elements, unbiased",
        "plain",
        _rotated(1),
        {"keep": 0.5},
    ),
    Method(
        14,
        "signsgd-vote",
        "signs, and the server takes the majority's: one bit",
        "plain",
        lambda _: Sign(),
        rule=lambda _: MajorityVote(),
    ),
    Method(
        15,
        "topk-ef",
        "the elements of largest magnitude, clients keep the rest",
        "error-feedback",
        lambda o: Sparse(o["density"], o["bits"]),
        _TOPK,
    ),
    Method(
        16,
        "fedbat",
        "random signs with a learned scale a tensor: one bit",
        "learned-sign",
        _learned_sign,
        {"warmup": 0.5, "rho": 6.0},
    ),
    Method(
        17,
        "fedpm",
        "random masks of frozen weights: one bit",
        "probability-mask",
        lambda o: Bernoulli(o["seed"]),
        {"seed": 1, "samples": 3},
        rule=lambda o: MeanMask(o["seed"], samples=o["samples"]),
        weighted=False,
        optimizer="adam",
    ),
    Method(
        18,
        "fedsparsify-global",
        "weights pruned on a schedule by the server: values only",
        "support",
        lambda _: Support(),
        _SPARSIFY,
        rule=lambda o: Prune(_schedule(o)),
    ),
    Method(
        19,
        "fedsparsify-local",
        "weights pruned on a schedule by clients: values and places",
        "weights",
        lambda _: Sparse(1.0),
        {**_SPARSIFY, "merge": "majority"},
        rule=lambda o: MergePruned(_schedule(o), _word(Merge, o["merge"], "merge")),
    ),
    Method(
        20,
        "fedmrn-no-pm",
        "ablation of fedmrn: every element masked from the first step",
        "masked-noise",
        _masked(MaskType.BINARY),
        _BINARY,
        fixed={"progressive": False},
        like="fedmrn",
    ),
    Method(
        21,
        "fedmrn-no-sm",
        "ablation of fedmrn: the nearer codeword in place of a sample",
        "masked-noise",
        _masked(MaskType.BINARY, stochastic=False),
        _BINARY,
        fixed={"stochastic": False},
        like="fedmrn",
    ),
    Method(
        22,
        "fedmrn-post",
        "ablation of fedmrn: train freely, mask once at the end",
        "plain",
        _masked(MaskType.BINARY),
        _BINARY,
        like="fedmrn",
    ),
    Method(
        23,
        "fedmrn-mrc",
        "fedmrn by minimal random coding: names one of many shared masks",
        "masked-noise",
        _random_code(MaskType.BINARY),
        {"noise": "uniform", "scale": 0.01, **_CODE},
        like="fedmrn",
    ),
    Method(
        24,
        "fedmrn-s-mrc",
        "fedmrn-s by minimal random coding: names one of many shared masks",
        "masked-noise",
        _random_code(MaskType.SIGNED),
        {"noise": "uniform", "scale": 0.005, **_CODE},
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
