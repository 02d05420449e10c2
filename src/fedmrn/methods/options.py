"""The options that rows of the table share, each defined once."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from fedmrn.codecs import CodedMask, InterleavedMask
from fedmrn.methods.option import (
    AUTO,
    NumberOption,
    Option,
    ReadBy,
    ScaleOption,
    WholeOption,
    WordOption,
    by_name,
    words_of,
)
from fedmrn.numerics.noise import Law
from fedmrn.server.rules import Merge

LAW = WordOption(name="noise", default="uniform", words="law of the noise", choices=words_of(Law), what="noise law")
_SIGNED_LAW = replace(LAW, default="bernoulli", words="law of the noise. Published: uniform")
_CODING = WordOption(
    name="coding",
    default="raw",
    words="how the bits of masks travel: as they are, or entropy-coded without loss (sorted: by codec 9, half as fast)",
    choices=MappingProxyType({"raw": lambda mask: mask, "entropy": InterleavedMask, "sorted": CodedMask}),
    what="coding",
)
_NOISE_KEY = WordOption(
    name="noise_key",
    default="client",
    words="whose a noise key is: one client's in one round, or that of all clients of a round",
    read_by=ReadBy.SCHEME,
    choices=MappingProxyType({"client": False, "round": True}),
    what="noise_key",
)
SCALE = ScaleOption(
    name="scale",
    default=AUTO,
    words='scale of the noise; "auto" fits one to the updates, per tensor. Published: 0.01 binary, 0.005 signed',
)
MASKED = by_name(LAW, SCALE, _CODING, _NOISE_KEY)
_THETA = NumberOption(
    name="theta",
    default=0.0,
    words="differential privacy: a sent bit's probability is within theta of 1/2, at most 1/4; 0: off",
    read_by=ReadBy.CLIENT,
)
SIGNED = by_name(_SIGNED_LAW, SCALE, _CODING, _NOISE_KEY, _THETA)
_BUDGET = NumberOption(
    name="budget",
    default=0.0,
    words='bits a parameter that a client may spend, 1/32 to 1: noise is as wide as that takes; 0: as "auto" has it',
    read_by=ReadBy.CLIENT,
)
RANDOM_CODE = (
    _BUDGET,
    WholeOption(name="buckets", default=16, words="buckets of |noise| with a prior each, 1 to 64"),
    WholeOption(name="log2_states", default=8, words="size of the trellis, 1 to 10: each more doubles the search"),
    NumberOption(name="rate", default=1.125, words="path bits for a bit of information, 1 to 2"),
)
TOPK = by_name(
    NumberOption(name="density", default=0.03, words="share of the elements that is sent"),
    WholeOption(name="bits", default=32, words="of a value: 32 or 16"),
)
SPARSITY = (
    NumberOption(name="sparsity", default=0.97, words="share of zeros after the last round", read_by=ReadBy.RULE),
    WholeOption(name="rounds", default=100, words="length of the schedule", read_by=ReadBy.RULE, follows="rounds"),
    WholeOption(name="start", default=0, words="last round without pruning", read_by=ReadBy.RULE),
    WholeOption(name="every", default=1, words="prune every so many rounds", read_by=ReadBy.RULE),
)
MERGE = WordOption(
    name="merge",
    default="majority",
    words="how pruned models become one",
    read_by=ReadBy.RULE,
    choices=words_of(Merge),
    what="merge",
)


def keep(default: float) -> Mapping[str, Option]:
    """Return the option of a codec that codes a random part of the elements."""
    return by_name(NumberOption(name="keep", default=default, words="share of the elements that is coded"))
