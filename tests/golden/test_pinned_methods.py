"""What each method sends for one vector, pinned: parameters, length, digests of the body and of what it decodes to.

A change here is a change of the wire format or of a method's law: it needs a line in CHANGELOG.md.
"""

import hashlib

import numpy as np
import pytest

from fedmrn.codecs import Bernoulli, Codec, EncodeKeys, codec_from
from fedmrn.methods import METHODS
from fedmrn.numerics.rng import Stream
from fedmrn.wire.layout import Group

KEY = 0x0123456789ABCDEF
ROUND = 50
PINNED = {
    "fedavg": ("", 4000, "70ed7cef8f7fe545", "70ed7cef8f7fe545"),
    "fedmrn": ("00000ad7233c", 125, "8b45d50c2809926f", "7483de19a5d2890a"),
    "fedmrn-s": ("02010ad7a33b", 125, "f9a8c3a985411204", "52e26770f0d3396d"),
    "signsgd": ("00", 153, "e86f6a965754331d", "799c169e85057b35"),
    "signsgd-stochastic": ("01", 153, "b38975592c425a39", "69d3fd2246111f3a"),
    "topk": ("8fc2f53c2004", 145, "30d382d5be57755c", "ab17b1e52ba70c48"),
    "terngrad": ("00002040", 228, "40081c71e69584f0", "71940309a9342a24"),
    "qsgd": ("8000000007", 532, "d54964aef032c1f6", "1f96dce86a61707d"),
    "drive": ("01000000803f", 540, "dfbcb54075d84f06", "4311029be133ced4"),
    "drive-mse": ("01010000803f", 540, "ea9866a10d2ac409", "243051deaeb553f3"),
    "eden2": ("02000000803f", 652, "4e715204c3e39938", "b15bbb1ff6891b2d"),
    "eden4": ("04000000803f", 876, "a65fb8d36a83f5eb", "741e33ccde5b0f0c"),
    "eden-half": ("01000000003f", 504, "42371c35504f806b", "9581c97afa653250"),
    "signsgd-vote": ("00", 153, "e86f6a965754331d", "799c169e85057b35"),
    "topk-ef": ("8fc2f53c2004", 145, "30d382d5be57755c", "ab17b1e52ba70c48"),
    "fedbat": ("02", 153, "848ef5032cd4ff7c", "bee1e38f836bcc2c"),
    "fedpm": ("0100000000000000", 125, "2b8253fea89329a9", "c36d703cea7c423d"),
    "fedsparsify-global": ("", 1216, "81d3ccc10c408b49", "28427b6685042bda"),
    "fedsparsify-local": ("48e11a3e2002", 682, "509673ca1f9ec039", "311a417063a5c716"),
    "fedmrn-no-pm": ("00000ad7233c", 125, "8b45d50c2809926f", "7483de19a5d2890a"),
    "fedmrn-no-sm": ("00000ad7233c", 125, "9916c58dc44e2b06", "1708711f8fe92963"),
    "fedmrn-post": ("00000ad7233c", 125, "8b45d50c2809926f", "7483de19a5d2890a"),
    "fedmrn-mrc": ("00000ad7233c100848", 126, "fc66cfe14e4f36c5", "7483de19a5d2890a"),
    "fedmrn-s-mrc": ("00010ad7a33b100848", 126, "14559c13b2f4beac", "4de0be74df658df1"),
    "fedmrn coding=entropy": ("00000ad7233c10", 126, "fc66cfe14e4f36c5", "7483de19a5d2890a"),
    "fedmrn-s noise=uniform": ("00010ad7a33b", 125, "738fd9a9b23279b9", "4de0be74df658df1"),
}
# Masks of 20,000 elements, of which few ask for anything: these do get shorter. Length, and digests as above.
SPARSE = {
    "fedmrn-mrc": (516, "7226b763dc960d95", "44375189b949ea4b"),
    "fedmrn-s-mrc": (275, "242d425f429a224e", "ed28a15780f7909a"),
    "fedmrn coding=entropy": (514, "2dc782b0dc072a39", "7085313e567ee633"),
}


OPTIONS = {
    "fedmrn coding=entropy": ("fedmrn", {"coding": "entropy"}),
    "fedmrn-s noise=uniform": ("fedmrn-s", {"noise": "uniform"}),
}
"""Rows with options that are pinned too."""


def codec_of(name: str) -> Codec:
    """Of a row, in noise of the published scale."""
    row, options = OPTIONS.get(name, (name, {}))
    if "scale" in METHODS[row].options:
        options = {"scale": 0.005 if row.startswith("fedmrn-s") else 0.01, **options}
    return METHODS[row].scheme(options).codecs_at(ROUND)[Group.CODED]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def test_every_method_is_pinned() -> None:
    assert PINNED.keys() == METHODS.keys() | OPTIONS.keys()


@pytest.mark.parametrize("name", PINNED)
def test_the_bytes_of_a_method(name: str) -> None:
    params, length, body_digest, value_digest = PINNED[name]
    codec = codec_of(name)
    uniform = Stream(3, 0).uniform(0, 1000)
    vector = uniform if isinstance(codec, Bernoulli) else (uniform - np.float32(0.5)) * np.float32(0.02)
    state = np.ones(1000, np.float32)
    if codec.needs_state:
        state = (Stream(4, 0).uniform(0, 1000) < 0.3).astype(np.float32)
        vector *= state
    assert codec.params().hex() == params
    codec = codec.bind(state)
    body = codec.encode(vector, EncodeKeys(KEY, 42, (700, 300)))
    assert (len(body), digest(body)) == (length, body_digest)
    values = codec_from(codec.id, codec.params()).bind(state).decode(body, 1000, KEY)
    assert digest(values.tobytes()) == value_digest


@pytest.mark.parametrize("name", SPARSE)
def test_the_bytes_of_a_mask_that_shrinks(name: str) -> None:
    length, body_digest, value_digest = SPARSE[name]
    codec = codec_of(name)
    vector = (Stream(3, 0).uniform(0, 20_000) - np.float32(0.5)) * np.float32(0.01)
    vector *= Stream(5, 0).uniform(0, 20_000) < 0.1
    body = codec.encode(vector, EncodeKeys(KEY, 42, (15_000, 40, 4960)))
    assert (body[0], len(body), digest(body)) == (1, length, body_digest)
    assert digest(codec_from(codec.id, codec.params()).decode(body, 20_000, KEY).tobytes()) == value_digest
