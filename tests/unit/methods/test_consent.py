"""Consent: who accepts what, and templates that are not what the method says."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from fedmrn.codecs import (
    Bernoulli,
    Codec,
    CodedMask,
    Float8,
    Float16,
    InterleavedMask,
    Levels,
    MaskedNoise,
    OwnScale,
    RandomCode,
    Raw,
    Rotated,
    ScaleRule,
    Sign,
    SignRule,
    Sparse,
    Support,
    Ternary,
    ToldScale,
)
from fedmrn.errors import (
    ConfigError,
    MalformedFrameError,
    MethodNotAcceptedError,
    UnknownCodecError,
    WrongMethodError,
    WrongTemplateError,
)
from fedmrn.methods import ANY, MASKED, METHODS, PRIVATE, SIDE, Accept, Method, check_consent
from fedmrn.methods.option import ScaleOption, WordOption
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.server import Server
from fedmrn.wire.frame import Frame, Kind, Role, Section
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.terms import terms_section

MASKED_NOISE = {
    "fedmrn",
    "fedmrn-s",
    "fedmrn-no-pm",
    "fedmrn-no-sm",
    "fedmrn-post",
    "fedmrn-mrc",
    "fedmrn-s-mrc",
}
"""What sends nothing but masks of noise that the server can make again: neither weights' masks (fedpm) nor signs."""
LAYOUT = Layout.of([TensorSpec("w", (4, 5), Group.CODED), TensorSpec("b", (3,), Group.DENSE)])


def broadcast_of(row: Method, options: dict[str, object] | None = None, side: str = "float32") -> Frame:
    scheme = row.scheme(options, side)
    state = Server.initial(LAYOUT, scheme, np.ones(LAYOUT.size, np.float32))
    return Server(LAYOUT, scheme, state, bytes(16)).begin(1, [0]).broadcast_frame(0)


def asking(method: int, codec: Codec, group: Group = Group.CODED) -> Frame:
    section = Section(codec.id, Role.TEMPLATE, group, 3, codec.params())
    return Frame(Kind.BROADCAST, method, 1, 0, LAYOUT.digest, 0, (section,))


def choices(row: Method) -> Iterator[dict[str, object]]:
    """Every word of every option, one at a time, and both kinds of scale."""
    yield {}
    for name, option in row.options.items():
        if isinstance(option, WordOption) and name != "noise_key":
            yield from ({name: word} for word in option.choices)
        if isinstance(option, ScaleOption):
            yield from ({name: "auto"}, {name: 0.25}, {name: "auto", "noise": "gaussian"})


@pytest.mark.parametrize("row", METHODS.values(), ids=METHODS)
def test_what_masked_noise_is_follows_from_the_codec(row: Method) -> None:
    assert row.masked == (row.name in MASKED_NOISE)


@pytest.mark.parametrize("row", METHODS.values(), ids=METHODS)
def test_every_method_is_accepted_by_its_name_and_by_any(row: Method) -> None:
    for options in choices(row):
        for side in SIDE:
            frame = broadcast_of(row, options, side)
            accepts: list[Accept] = [row.name, ANY, [row.name], ("fedavg", row.name), iter({MASKED, row.name})]
            for accept in accepts + [MASKED] * row.masked:
                assert check_consent(frame, accept) is row


@pytest.mark.parametrize("row", METHODS.values(), ids=METHODS)
def test_every_method_is_refused_by_whoever_does_not_name_it(row: Method) -> None:
    frame, others = broadcast_of(row), [name for name in METHODS if name != row.name]
    refusing: list[Accept] = [others, others[0]]
    if not row.masked:
        refusing += [MASKED, [MASKED]]
    for accept in refusing:
        with pytest.raises(MethodNotAcceptedError, match=rf"asks for method {row.name} ") as caught:
            check_consent(frame, accept)
        text = str(caught.value)
        assert "\n" not in text
        assert f"{row.name!r})" in text.split("write accept=(")[1]
        assert ("all of masked noise" if MASKED in list(accept) or accept == MASKED else others[0]) in text


def test_the_default_is_masked_noise() -> None:
    assert check_consent(broadcast_of(METHODS["fedmrn-s"])).name == "fedmrn-s"
    with pytest.raises(MethodNotAcceptedError, match=r"write accept=\('masked', 'fedavg'\)"):
        check_consent(broadcast_of(METHODS["fedavg"]))


@pytest.mark.parametrize("accept", ["fedmnr", ["fedavg", "fedmnr"], ("fedmnr",)])
def test_a_method_that_does_not_exist_is_told(accept: Accept) -> None:
    with pytest.raises(ConfigError, match="'fedmnr' does not exist; did you mean 'fedmrn'"):
        check_consent(broadcast_of(METHODS["fedavg"]), accept)


@pytest.mark.parametrize("accept", [[], (), [3], [None]])
def test_what_names_no_method_is_told(accept: Accept) -> None:
    with pytest.raises(ConfigError, match="accept"):
        check_consent(broadcast_of(METHODS["fedmrn"]), accept)


BINARY = MaskedNoise(NoiseSpec(Law.UNIFORM, 0.01), MaskType.BINARY)
SIGNED = MaskedNoise(NoiseSpec(Law.GAUSSIAN, 0.5), MaskType.SIGNED)
UNIT = MaskedNoise(NoiseSpec(Law.UNIFORM, 1.0), MaskType.BINARY)
CODES: list[tuple[Codec, set[str]]] = [
    (Raw(), {"fedavg"}),
    (Float16(), set()),
    (Float8(), set()),
    (BINARY, {"fedmrn", "fedmrn-no-pm", "fedmrn-no-sm", "fedmrn-post"}),
    (SIGNED, {"fedmrn-s"}),
    (CodedMask(BINARY), {"fedmrn", "fedmrn-no-pm", "fedmrn-no-sm", "fedmrn-post"}),
    (CodedMask(SIGNED, 2), {"fedmrn-s"}),
    (InterleavedMask(BINARY), {"fedmrn", "fedmrn-no-pm", "fedmrn-no-sm", "fedmrn-post"}),
    (OwnScale(InterleavedMask(UNIT)), {"fedmrn", "fedmrn-no-pm", "fedmrn-no-sm", "fedmrn-post"}),
    (OwnScale(UNIT), {"fedmrn", "fedmrn-no-pm", "fedmrn-no-sm", "fedmrn-post"}),
    (OwnScale(CodedMask(UNIT)), {"fedmrn", "fedmrn-no-pm", "fedmrn-no-sm", "fedmrn-post"}),
    (ToldScale(UNIT), {"fedmrn", "fedmrn-no-pm", "fedmrn-no-sm", "fedmrn-post"}),
    (ToldScale(CodedMask(UNIT)), {"fedmrn", "fedmrn-no-pm", "fedmrn-no-sm", "fedmrn-post"}),
    (RandomCode(BINARY), {"fedmrn-mrc"}),
    (RandomCode(SIGNED, 3, 2), {"fedmrn-s-mrc"}),
    (OwnScale(RandomCode(UNIT)), {"fedmrn-mrc"}),
    (Sign(), {"signsgd", "signsgd-vote"}),
    (Sign(SignRule.STOCHASTIC), {"signsgd-stochastic"}),
    (Sign(SignRule.LEARNED), {"fedbat"}),
    (Sparse(0.5), {"topk", "topk-ef", "fedsparsify-local"}),
    (Ternary(0.0), {"terngrad"}),
    (Levels(127, 64), {"qsgd"}),
    (Rotated(1), {"drive", "eden-half"}),
    (Rotated(1, ScaleRule.MSE, keep=0.5), {"drive-mse"}),
    (Rotated(2, keep=0.5), {"eden2"}),
    (Rotated(3), set()),
    (Rotated(4), {"eden4"}),
    (Bernoulli(7), {"fedpm"}),
    (Support(), {"fedsparsify-global"}),
]


@pytest.mark.parametrize(("codec", "names"), CODES, ids=[repr(codec)[:40] for codec, _ in CODES])
def test_only_the_methods_that_send_a_code_may_ask_for_it(codec: Codec, names: set[str]) -> None:
    """A server that names masked noise and asks for float32 gets nothing, whatever the client accepts."""
    for row in METHODS.values():
        if row.name in names:
            assert check_consent(asking(row.id, codec), ANY) is row
            continue
        with pytest.raises(WrongTemplateError, match=f"says method {row.name} and asks for group coded by codec "):
            check_consent(asking(row.id, codec), ANY)


@pytest.mark.parametrize("group", [group for group in Group if group is not Group.CODED])
def test_side_data_is_asked_for_in_the_forms_that_there_are(group: Group) -> None:
    for codec in SIDE.values():
        assert check_consent(asking(2, codec, group)).name == "fedmrn"
    for codec, _ in CODES:
        if codec not in SIDE.values():
            with pytest.raises(WrongTemplateError, match=f"group {group.name.lower()} by codec {codec.name}"):
                check_consent(asking(2, codec, group))
    with pytest.raises(WrongTemplateError):
        check_consent(asking(2, Levels(7, 128), group))


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(WrongMethodError, match="method 999"):
        check_consent(asking(999, Raw()), ANY)
    unknown = Section(250, Role.TEMPLATE, Group.CODED, 3, b"")
    with pytest.raises(UnknownCodecError):
        check_consent(Frame(Kind.BROADCAST, 2, 1, 0, LAYOUT.digest, 0, (unknown,)))
    bad = Section(1, Role.TEMPLATE, Group.CODED, 3, b"\x09")
    with pytest.raises(MalformedFrameError):
        check_consent(Frame(Kind.BROADCAST, 2, 1, 0, LAYOUT.digest, 0, (bad,)))


def test_a_client_of_private_masks_alone() -> None:
    """`theta` must be told, above 0: neither the method's name nor a term of 0 will do."""
    layout = Layout.of([TensorSpec("w", (4, 5), Group.CODED)])

    def asked(**options: float) -> Frame:
        scheme = METHODS["fedmrn-s"].scheme({"scale": 0.5, "noise_key": "round", **options}, equal=True)
        server = Server(layout, scheme, np.ones(layout.size, np.float32), bytes(16))
        return Frame.from_bytes(server.begin(1, ["a"]).broadcast("a"))

    assert check_consent(asked(theta=0.1), PRIVATE).name == "fedmrn-s"
    assert check_consent(asked(theta=0.1)).name == "fedmrn-s"
    assert check_consent(asked(), (PRIVATE, "fedmrn-s")).name == "fedmrn-s"
    zero = replace(asked(), sections=(*asked().sections, *terms_section({"theta": 0.0})))
    for frame in (asked(), zero):
        with pytest.raises(MethodNotAcceptedError, match=r"without theta.*private masks alone.*sets theta"):
            check_consent(frame, PRIVATE)
    with pytest.raises(MethodNotAcceptedError, match="fedavg"):
        check_consent(broadcast_of(METHODS["fedavg"]), PRIVATE)
