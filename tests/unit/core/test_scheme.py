import numpy as np
import pytest

from fedmrn.codecs import MaskedNoise, Raw
from fedmrn.errors import ConfigError
from fedmrn.layout import Group
from fedmrn.masking import MaskType
from fedmrn.noise import Law, NoiseSpec
from fedmrn.scheme import METHODS, AddMean, NoiseOptions, method
from fedmrn.text import nearest


def test_the_wire_ids_never_change() -> None:
    assert {m.name: m.id for m in METHODS.values()}.items() >= {"fedavg": 1, "fedmrn": 2, "fedmrn-s": 3}.items()
    assert len({m.id for m in METHODS.values()}) == len(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_each_row(name: str) -> None:
    row = method(name)
    scheme = row.scheme()
    assert row.name == name
    assert row.summary
    assert row.local
    assert scheme.method == row.id
    assert 0 <= row.id < 1 << 16
    assert set(scheme.codecs) == set(Group)
    assert scheme.codecs[Group.DENSE] == scheme.codecs[Group.STATS] == Raw()


def test_published_scales() -> None:
    binary = MaskedNoise(NoiseSpec(Law.UNIFORM, 0.01), MaskType.BINARY)
    signed = MaskedNoise(NoiseSpec(Law.UNIFORM, 0.005), MaskType.SIGNED)
    assert method("fedmrn").scheme().codecs[Group.CODED] == binary
    assert method("fedmrn-s").scheme().codecs[Group.CODED] == signed
    assert method("fedavg").scheme().codecs[Group.CODED] == Raw()


def test_noise_options() -> None:
    codec = method("fedmrn-s").scheme(NoiseOptions("bernoulli", 0.25)).codecs[Group.CODED]
    assert codec == MaskedNoise(NoiseSpec(Law.BERNOULLI, 0.25), MaskType.SIGNED)
    with pytest.raises(ConfigError, match="noise law 'gausian' does not exist; did you mean 'gaussian'"):
        NoiseOptions("gausian").spec()
    with pytest.raises(ConfigError, match="noise scale 0"):
        method("fedmrn").scheme(NoiseOptions(scale=0))


@pytest.mark.parametrize(
    ("wrong", "right"), [("fedmnr", "fedmrn"), ("FedAvg", "fedavg"), ("fed-avg", "fedavg"), ("fedmrns", "fedmrn-s")]
)
def test_an_unknown_method_suggests_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(ConfigError, match=f"method {wrong!r} does not exist; did you mean {right!r}"):
        method(wrong)


def test_a_hopeless_name_lists_all() -> None:
    with pytest.raises(ConfigError) as caught:
        method("zzz")
    assert all(name in str(caught.value) for name in METHODS)


def test_nearest() -> None:
    assert nearest("alpah", ["beta", "alpha"]) == "; did you mean 'alpha'?"
    assert nearest("qqq", ["beta", "alpha"]) == "; choose one of alpha, beta"
    assert nearest("qqq", iter(["only"])) == "; choose one of only"


def test_add_mean() -> None:
    state, mean = np.array([1, 2], np.float32), np.array([0.5, -4], np.float32)
    moved = AddMean().step(state, mean)
    assert moved.dtype == np.float32
    assert moved.tolist() == [1.5, -2]
    assert state.tolist() == [1, 2]
