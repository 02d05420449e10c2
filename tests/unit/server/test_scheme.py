import numpy as np
import pytest

from fedmrn.codecs import (
    CodedMask,
    Float8,
    Float16,
    InterleavedMask,
    Levels,
    MaskedNoise,
    OwnScale,
    RandomCode,
    Raw,
    Sparse,
)
from fedmrn.errors import ConfigError
from fedmrn.methods import METHODS, method
from fedmrn.methods.method import SIDE
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.server.rules import ServerRule
from fedmrn.text import nearest
from fedmrn.wire.layout import Group


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


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if row.masked])
def test_a_user_who_says_no_scale_gets_one_that_fits(name: str) -> None:
    row = method(name)
    assert row.defaults["scale"] == "auto"
    assert isinstance(row.scheme().codecs[Group.CODED], OwnScale)
    assert row.scheme().codecs == row.scheme({"scale": "auto"}).codecs


def test_published_scales() -> None:
    binary = MaskedNoise(NoiseSpec(Law.UNIFORM, 0.01), MaskType.BINARY)
    signed = MaskedNoise(NoiseSpec(Law.UNIFORM, 0.005), MaskType.SIGNED)
    assert method("fedmrn").scheme({"scale": 0.01}).codecs[Group.CODED] == binary
    assert method("fedmrn-s").scheme({"noise": "uniform", "scale": 0.005}).codecs[Group.CODED] == signed
    assert method("fedavg").scheme().codecs[Group.CODED] == Raw()


def test_noise_options() -> None:
    assert method("fedmrn-s").scheme({"scale": 0.25}).codecs[Group.CODED] == MaskedNoise(
        NoiseSpec(Law.BERNOULLI, 0.25), MaskType.SIGNED
    )
    codec = method("fedmrn").scheme({"noise": "gaussian", "scale": 0.25}).codecs[Group.CODED]
    assert codec == MaskedNoise(NoiseSpec(Law.GAUSSIAN, 0.25), MaskType.BINARY)
    with pytest.raises(ConfigError, match="noise law 'gausian' does not exist; did you mean 'gaussian'"):
        method("fedmrn-s").scheme({"noise": "gausian"})
    with pytest.raises(ConfigError, match="noise scale 0"):
        method("fedmrn").scheme({"scale": 0})


def test_how_the_bits_of_a_mask_travel() -> None:
    binary = MaskedNoise(NoiseSpec(Law.UNIFORM, 0.01), MaskType.BINARY)
    signed = MaskedNoise(NoiseSpec(Law.GAUSSIAN, 0.25), MaskType.SIGNED)
    assert method("fedmrn").scheme({"scale": 0.01, "coding": "raw"}).codecs[Group.CODED] == binary
    assert method("fedmrn").scheme({"scale": 0.01, "coding": "entropy"}).codecs[Group.CODED] == InterleavedMask(binary)
    own = {"noise": "gaussian", "scale": 0.25}
    assert method("fedmrn-s").scheme({**own, "coding": "entropy"}).codecs[Group.CODED] == InterleavedMask(signed)
    assert method("fedmrn-s").scheme({**own, "coding": "sorted"}).codecs[Group.CODED] == CodedMask(signed)
    for name in ("fedmrn-no-pm", "fedmrn-no-sm", "fedmrn-post"):
        found = method(name).scheme({"scale": 0.01, "coding": "entropy"}).codecs[Group.CODED]
        assert isinstance(found, InterleavedMask)
        assert found.params() == InterleavedMask(binary).params()
    with pytest.raises(ConfigError, match="coding 'entopy' does not exist; did you mean 'entropy'"):
        method("fedmrn").scheme({"coding": "entopy"})


def test_the_rows_of_random_codes() -> None:
    binary = MaskedNoise(NoiseSpec(Law.UNIFORM, 0.01), MaskType.BINARY)
    signed = MaskedNoise(NoiseSpec(Law.UNIFORM, 0.005), MaskType.SIGNED)
    assert [method(name).id for name in ("fedmrn-mrc", "fedmrn-s-mrc")] == [23, 24]
    assert [method(name).like for name in ("fedmrn-mrc", "fedmrn-s-mrc")] == ["fedmrn", "fedmrn-s"]
    assert method("fedmrn-mrc").scheme({"scale": 0.01}).codecs[Group.CODED] == RandomCode(binary, 16, 8, 1.125)
    assert method("fedmrn-s-mrc").scheme({"scale": 0.005}).codecs[Group.CODED] == RandomCode(signed, 16, 8, 1.125)
    options = {"noise": "bernoulli", "scale": 0.25, "buckets": 3, "log2_states": 5, "rate": 2}
    inner = MaskedNoise(NoiseSpec(Law.BERNOULLI, 0.25), MaskType.BINARY)
    assert method("fedmrn-mrc").scheme(options).codecs[Group.CODED] == RandomCode(inner, 3, 5, 2.0)
    with pytest.raises(ConfigError, match="has no option 'coding'"):
        method("fedmrn-mrc").scheme({"coding": "entropy"})
    for option, value, message in (
        *(("buckets", buckets, "buckets are 1 to 64") for buckets in (0, 65)),
        *(("log2_states", states, "log2_states are 1 to 10") for states in (0, 11)),
        *(("rate", rate, "rate is a multiple of 1/64 from 1 to 2") for rate in (0.5, 1.01, 2.5)),
    ):
        with pytest.raises(ConfigError, match=message):
            method("fedmrn-s-mrc").scheme({option: value})


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("side", "codec"), [("float32", Raw()), ("float16", Float16()), ("levels", Levels(127, 64)), ("float8", Float8())]
)
def test_how_side_data_travels(name: str, side: str, codec: object) -> None:
    row = method(name)
    scheme = row.scheme(None, side)
    assert scheme.codecs[Group.DENSE] == scheme.codecs[Group.STATS] == codec == SIDE[side]
    assert scheme.codecs[Group.CODED] == row.scheme().codecs[Group.CODED], "not the side's business"
    assert scheme.codecs_at(3)[Group.DENSE] == codec


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("flaot16", "did you mean 'float16'"),
        ("Levels", "did you mean 'levels'"),
        ("", "choose one of float16, float32, float8"),
    ],
)
def test_side_data_that_does_not_exist(wrong: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"side data '{wrong}' does not exist; {hint}"):
        method("fedmrn").scheme(None, wrong)


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


def test_the_published_values_are_resolved() -> None:
    row = method("fedsparsify-local")
    published = {"sparsity": 0.97, "rounds": 100, "start": 0, "every": 1, "merge": "majority"}
    assert row.resolve() == row.resolve({}) == published
    assert row.resolve({"rounds": 7, "merge": "mean"}) == {**published, "rounds": 7, "merge": "mean"}
    assert row.defaults == published, "the row itself stays"
    assert method("fedavg").resolve() == {}


@pytest.mark.parametrize("name", METHODS)
def test_published_values_can_be_given_again(name: str) -> None:
    row = method(name)
    scheme = row.scheme(row.resolve(row.defaults))
    assert scheme == row.scheme(None)
    assert all(isinstance(v, float | int | str) and not isinstance(v, bool) for v in row.defaults.values())


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("fedmrn", "scal", "method fedmrn has no option 'scal'; did you mean 'scale'"),
        ("fedsparsify-global", "merge", "method fedsparsify-global has no option 'merge'; choose one of every, rounds"),
        ("fedsparsify-local", "round", "did you mean 'rounds'"),
        ("fedavg", "scale", "method fedavg has no option 'scale': it has none"),
    ],
)
def test_an_unknown_option_suggests_the_nearest(name: str, option: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        method(name).resolve({option: 1})


@pytest.mark.parametrize(
    ("name", "option", "value", "kind"),
    [
        ("fedmrn", "scale", "0.1", "a number or the word .auto."),
        ("fedmrn", "scale", "atuo", "a number or the word .auto."),
        ("fedmrn", "scale", True, "a number"),
        ("fedmrn", "scale", None, "a number"),
        ("fedmrn", "noise", 1, "a word"),
        ("fedmrn", "noise", False, "a word"),
        ("qsgd", "levels", 7.0, "a whole number"),
        ("qsgd", "levels", "7", "a whole number"),
        ("fedpm", "samples", True, "a whole number"),
        ("fedsparsify-local", "merge", 2.5, "a word"),
    ],
)
def test_a_value_of_another_type(name: str, option: str, value: object, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"method {name}: {option} = .* must be {kind}$"):
        method(name).resolve({option: value})


def test_a_whole_number_will_do_for_a_float() -> None:
    found = method("fedmrn").resolve({"scale": 2})["scale"]
    assert (found, type(found)) == (2.0, float)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_is_finite(value: float) -> None:
    with pytest.raises(ConfigError, match=r"method fedbat: rho = .* is not finite"):
        method("fedbat").resolve({"rho": value})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fedsparsify-local", {"merge": "majorty"}, "merge 'majorty' does not exist; did you mean 'majority'"),
        ("fedsparsify-global", {"sparsity": 1.0}, "sparsity is a share"),
        ("fedsparsify-local", {"start": 100}, "start is a round before the last"),
        ("fedpm", {"seed": -1}, "unsigned 64-bit"),
        ("topk", {"bits": 8}, "16 or 32 bits"),
    ],
)
def test_a_value_out_of_its_range(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        method(name).scheme(options)


def test_only_the_coded_group_follows_the_round() -> None:
    scheme = method("fedsparsify-local").scheme({"rounds": 4, "sparsity": 0.5})
    for round_, density in ((0, 1.0), (2, 1 - 0.5 * 7 / 8), (4, 0.5), (9, 0.5)):
        codecs = scheme.codecs_at(round_)
        assert codecs == {Group.CODED: Sparse(density), **{g: Raw() for g in Group if g is not Group.CODED}}
    fixed = method("fedmrn").scheme()
    assert fixed.codecs_at(5) == fixed.codecs


def test_add_mean() -> None:
    state, mean = np.array([1, 2], np.float32), np.array([0.5, -4], np.float32)
    moved = ServerRule().step(1, state, mean)
    assert moved.dtype == np.float32
    assert moved.tolist() == [1.5, -2]
    assert state.tolist() == [1, 2]
