"""The rows of every other method: what FedMRN is compared with."""

from collections.abc import Callable
from types import MappingProxyType

from fedmrn.codecs import Bernoulli, Codec, Levels, Raw, Rotated, ScaleRule, Sign, SignRule, Sparse, Support, Ternary
from fedmrn.methods.method import Method, Options
from fedmrn.methods.option import NumberOption, ReadBy, WholeOption, WordOption, by_name, words_of
from fedmrn.methods.options import MERGE, SPARSITY, TOPK, keep
from fedmrn.server.rules import MajorityVote, MeanMask, MergePruned, Prune, Scores, check_binarisation
from fedmrn.server.schedule import CubicSchedule


def _learned_sign(o: Options) -> Codec:
    check_binarisation(o["warmup"], o["rho"])  # the local rule's, but a mistake should be told before training
    return Sign(SignRule.LEARNED)


def _rotated(bits: int, scale: ScaleRule = ScaleRule.UNBIASED) -> Callable[[Options], Codec]:
    return lambda o: Rotated(bits, scale, keep=o["keep"])


def _schedule(o: Options) -> CubicSchedule:
    return CubicSchedule(o["sparsity"], o["rounds"], o["start"], o["every"])


ROWS = (
    Method(
        id=1, name="fedavg", summary="float32 updates, the reference", local="base:LocalRule", codec=lambda _: Raw()
    ),
    Method(
        id=4,
        name="signsgd",
        summary="signs, and the mean magnitude a tensor: one bit",
        local="base:LocalRule",
        codec=lambda _: Sign(),
    ),
    Method(
        id=5,
        name="signsgd-stochastic",
        summary="random signs of +-max|x| a tensor, unbiased: one bit",
        local="base:LocalRule",
        codec=lambda _: Sign(SignRule.STOCHASTIC),
    ),
    Method(
        id=6,
        name="topk",
        summary="the elements of largest magnitude, no error feedback",
        local="base:LocalRule",
        codec=lambda o: Sparse(o["density"], o["bits"]),
        options=TOPK,
    ),
    Method(
        id=7,
        name="terngrad",
        summary="random {-s, 0, s}, s a tensor, of clipped values",
        local="base:LocalRule",
        codec=lambda o: Ternary(o["clip"]),
        options=by_name(
            NumberOption(name="clip", default=2.5, words="magnitudes are clipped to this many root mean squares")
        ),
    ),
    Method(
        id=8,
        name="qsgd",
        summary="random rounding to levels of a bucket's norm",
        local="base:LocalRule",
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
        local="base:LocalRule",
        codec=_rotated(1),
        options=keep(1.0),
    ),
    Method(
        id=10,
        name="drive-mse",
        summary="rotation and signs, least error: one bit",
        local="base:LocalRule",
        codec=_rotated(1, ScaleRule.MSE),
        options=keep(1.0),
    ),
    Method(
        id=11,
        name="eden2",
        summary="rotation and 2-bit centroids, unbiased",
        local="base:LocalRule",
        codec=_rotated(2),
        options=keep(1.0),
    ),
    Method(
        id=12,
        name="eden4",
        summary="rotation and 4-bit centroids, unbiased",
        local="base:LocalRule",
        codec=_rotated(4),
        options=keep(1.0),
    ),
    Method(
        id=13,
        name="eden-half",
        summary="EDEN below one bit: a random part of the elements, unbiased",
        local="base:LocalRule",
        codec=_rotated(1),
        options=keep(0.5),
    ),
    Method(
        id=14,
        name="signsgd-vote",
        summary="signs, and the server takes the majority's: one bit",
        local="base:LocalRule",
        codec=lambda _: Sign(),
        rule=lambda _: MajorityVote(),
    ),
    Method(
        id=15,
        name="topk-ef",
        summary="the elements of largest magnitude, clients keep the rest",
        local="after:ErrorFeedback",
        codec=lambda o: Sparse(o["density"], o["bits"]),
        options=TOPK,
    ),
    Method(
        id=16,
        name="fedbat",
        summary="random signs with a learned scale a tensor: one bit",
        local="learned:LearnedSign",
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
        local="learned:ProbabilityMask",
        codec=lambda o: Bernoulli(o["seed"]),
        options=by_name(
            WholeOption(name="seed", default=1, words="of the frozen weights", follows="seed"),
            WholeOption(name="samples", default=3, words="sampled models that are evaluated", read_by=ReadBy.RULE),
            WordOption(
                name="initial",
                default="half",
                words="scores at the start: all probabilities 1/2, or scores drawn from N(0, 1) (published)",
                read_by=ReadBy.RULE,
                choices=words_of(Scores),
                what="initial",
            ),
            WordOption(
                name="backward",
                default="straight",
                words="gradient of a mask: straight through, or times its probability (published)",
                read_by=ReadBy.CLIENT,
                choices=MappingProxyType({"straight": False, "probability": True}),
                what="backward",
            ),
        ),
        rule=lambda o: MeanMask(o["seed"], samples=o["samples"], initial=o["initial"]),
        weighted=False,
        optimizer="adam",
    ),
    Method(
        id=18,
        name="fedsparsify-global",
        summary="weights pruned on a schedule by the server: values only",
        local="after:KeepSupport",
        codec=lambda _: Support(),
        options=by_name(*SPARSITY),
        rule=lambda o: Prune(_schedule(o)),
    ),
    Method(
        id=19,
        name="fedsparsify-local",
        summary="weights pruned on a schedule by clients: values and places",
        local="after:HandOverWeights",
        codec=lambda _: Sparse(1.0),
        options=by_name(*SPARSITY, MERGE),
        rule=lambda o: MergePruned(_schedule(o), o["merge"]),
    ),
)
