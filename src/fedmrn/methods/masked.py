"""The rows of FedMRN: its two masks, its ablations, and masks by minimal random coding."""

from collections.abc import Callable

from fedmrn.codecs import Codec, MaskCodec, MaskedNoise, OwnScale, RandomCode, ShorterMask, ToldScale
from fedmrn.errors import ConfigError
from fedmrn.methods.method import Method, Options
from fedmrn.methods.option import by_name
from fedmrn.methods.options import LAW, MASKED, RANDOM_CODE, SCALE, SIGNED
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.numerics.private import check_theta


def _scaled(o: Options, masks: MaskedNoise | ShorterMask) -> MaskCodec:
    """Return the codec of masks whose scales are a number, chosen by clients, or told where clients share a noise."""
    if not o["scale"].follows_update:
        return masks
    return ToldScale(masks) if o.get("noise_key", False) else OwnScale(masks)


def _masked(mask: MaskType, *, stochastic: bool = True) -> Callable[[Options], Codec]:
    def codec(o: Options) -> Codec:
        noise = NoiseSpec(o["noise"], o["scale"].of_parameters)
        return _scaled(o, o["coding"](MaskedNoise(noise, mask, stochastic)))

    return codec


def _signed(o: Options) -> Codec:
    """Return the codec of signed masks; where they are to be private, refuse what would not be."""
    if not o["theta"]:
        return _masked(MaskType.SIGNED)(o)
    check_theta(o["theta"])
    if o["scale"].follows_update:
        raise ConfigError(
            'theta needs a scale that is a number, such as scale = 0.1: with "auto" clients tell in the clear which '
            "scale would fit them. Updates are clipped to 2 theta scale"
        )
    if o["noise"] is not Law.BERNOULLI:
        raise ConfigError(
            'theta needs noise = "bernoulli": over smaller noise a bit may tell for sure what it stands for'
        )
    if not o["noise_key"]:
        raise ConfigError('theta needs noise_key = "round": only the sum of masks over one noise is private')
    codec = _masked(MaskType.SIGNED)(o)
    mask = MaskCodec.of(codec)
    if mask is None or mask.masked is not mask:
        raise ConfigError('theta needs coding = "raw": the length of a coded mask says something of the update')
    return codec


def _random_code(mask: MaskType) -> Callable[[Options], Codec]:
    def codec(o: Options) -> Codec:
        masked = MaskedNoise(NoiseSpec(o["noise"], o["scale"].of_parameters), mask)
        code = _scaled(o, RandomCode(masked, o["buckets"], o["log2_states"], o["rate"]))
        code.spending(o["budget"])  # clients are told by a term, not by the codec; what none could do is refused here
        return code

    return codec


ROWS = (
    Method(
        id=2,
        name="fedmrn",
        summary="masked random noise, binary mask {0, n}: one bit a parameter",
        local="masked_noise:MaskedTraining",
        codec=_masked(MaskType.BINARY),
        options=MASKED,
    ),
    Method(
        id=3,
        name="fedmrn-s",
        summary="masked random noise, signed mask {-n, n}: one bit a parameter",
        local="private:SignedTraining",
        codec=_signed,
        options=SIGNED,
    ),
    Method(
        id=20,
        name="fedmrn-no-pm",
        summary="ablation of fedmrn: every element masked from the first step",
        local="masked_noise:MaskedTraining",
        codec=_masked(MaskType.BINARY),
        options=MASKED,
        fixed={"progressive": False},
        like="fedmrn",
    ),
    Method(
        id=21,
        name="fedmrn-no-sm",
        summary="ablation of fedmrn: the nearer codeword in place of a sample",
        local="masked_noise:MaskedTraining",
        codec=_masked(MaskType.BINARY, stochastic=False),
        options=MASKED,
        fixed={"stochastic": False},
        like="fedmrn",
    ),
    Method(
        id=22,
        name="fedmrn-post",
        summary="ablation of fedmrn: train freely, mask once at the end",
        local="base:LocalRule",
        codec=_masked(MaskType.BINARY),
        options=MASKED,
        like="fedmrn",
    ),
    Method(
        id=23,
        name="fedmrn-mrc",
        summary="fedmrn by minimal random coding: names one of many shared masks",
        local="masked_noise:MaskedTraining",
        codec=_random_code(MaskType.BINARY),
        options=by_name(LAW, SCALE, *RANDOM_CODE),
        like="fedmrn",
    ),
    Method(
        id=24,
        name="fedmrn-s-mrc",
        summary="fedmrn-s by minimal random coding: names one of many shared masks",
        local="masked_noise:MaskedTraining",
        codec=_random_code(MaskType.SIGNED),
        options=by_name(LAW, SCALE, *RANDOM_CODE),
        like="fedmrn-s",
    ),
)
