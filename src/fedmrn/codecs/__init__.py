"""Codecs: one file each, and the registry from a section's codec number to its class."""

from collections.abc import Mapping
from types import MappingProxyType

from fedmrn.codecs.base import CHUNK, Codec, EncodeKeys, Opened, Plane
from fedmrn.codecs.bernoulli import Bernoulli
from fedmrn.codecs.float8 import Float8
from fedmrn.codecs.float16 import Float16
from fedmrn.codecs.levels import Levels
from fedmrn.codecs.mask.base import MaskCodec
from fedmrn.codecs.mask.coded_mask import CodedMask
from fedmrn.codecs.mask.interleaved_mask import InterleavedMask
from fedmrn.codecs.mask.masked_noise import MaskedNoise
from fedmrn.codecs.mask.own_scale import OwnScale
from fedmrn.codecs.mask.random_code import RandomCode
from fedmrn.codecs.mask.scale import FitsUpdate, Fixed, NoiseScale, Told
from fedmrn.codecs.mask.shorter_mask import ShorterMask
from fedmrn.codecs.mask.told_scale import ToldScale
from fedmrn.codecs.observation import DENSITY, NOISE_SCALE, Observable, Observed
from fedmrn.codecs.raw import Raw
from fedmrn.codecs.rotated import Rotated, ScaleRule
from fedmrn.codecs.sign import Sign, SignRule
from fedmrn.codecs.sparse import Sparse
from fedmrn.codecs.support import Support
from fedmrn.codecs.ternary import Ternary
from fedmrn.errors import UnknownCodecError

_registered = [k for k in list(vars().values()) if isinstance(k, type) and issubclass(k, Codec) and "id" in vars(k)]
CODECS: Mapping[int, type[Codec]] = MappingProxyType({k.id: k for k in sorted(_registered, key=lambda k: k.id)})
"""The registry: every codec that is imported above, by its id on the wire."""


def codec_from(codec: int, params: bytes) -> Codec:
    """Return the codec that a section names.

    Raises:
        UnknownCodecError: if the id is not in the registry.
        MalformedFrameError: if the parameters are not of that codec.
    """
    if codec not in CODECS:
        raise UnknownCodecError(f"codec {codec} is not known to this version of the library")
    return CODECS[codec].from_params(params)


__all__ = [
    "CHUNK",
    "CODECS",
    "DENSITY",
    "NOISE_SCALE",
    "Bernoulli",
    "Codec",
    "CodedMask",
    "EncodeKeys",
    "FitsUpdate",
    "Fixed",
    "Float8",
    "Float16",
    "InterleavedMask",
    "Levels",
    "MaskCodec",
    "MaskedNoise",
    "NoiseScale",
    "Observable",
    "Observed",
    "Opened",
    "OwnScale",
    "Plane",
    "RandomCode",
    "Raw",
    "Rotated",
    "ScaleRule",
    "ShorterMask",
    "Sign",
    "SignRule",
    "Sparse",
    "Support",
    "Ternary",
    "Told",
    "ToldScale",
    "codec_from",
]
