"""`attach` sends nothing that its caller has not accepted: a refused broadcast leaves everything as it was."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from fedmrn.codecs import Codec, Float16, Levels, Raw, Rotated, Sign
from fedmrn.errors import (
    ConfigError,
    FrameError,
    LimitError,
    MalformedFrameError,
    MethodNotAcceptedError,
    UsageError,
    WrongKindError,
    WrongTemplateError,
)
from fedmrn.methods import METHODS, Method
from fedmrn.server import Server
from fedmrn.torch import LocalRule, ModelLayout, attach
from fedmrn.wire.frame import Frame, Limits, Role, Section
from fedmrn.wire.layout import Group


def model_of(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def broadcast_of(row: Method, **options: Any) -> Frame:
    view = ModelLayout.of(model_of(1))
    scheme = row.scheme(options)
    server = Server(view.layout, scheme, Server.initial(view.layout, scheme, view.read()), bytes(16))
    return Frame.from_bytes(server.begin(1, [0]).broadcast(0))


class Untouched:
    """A client with an optimizer that has a state; `check` says that nothing has changed since."""

    def __init__(self) -> None:
        self.model = model_of(2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.model(torch.ones(5, 4)).square().sum().backward()
        self.optimizer.step()
        self.before = self.everything()

    def everything(self) -> list[Any]:
        tensors = [*self.model.state_dict().values(), *(p.grad for p in self.model.parameters())]
        momenta = [s["momentum_buffer"] for s in self.optimizer.state.values()]
        places = [p.data_ptr() for p in self.model.parameters()]
        found = [t.clone() for t in [*tensors, *momenta] if t is not None]
        return [found, places, torch.random.get_rng_state(), self.model.training]

    def refuses(self, error: type[Exception], frame: Frame | bytes, **options: Any) -> str:
        with pytest.raises(error) as caught:
            attach(self.model, self.optimizer, frame, steps=1, **options)
        for old, new in zip(self.before, self.everything(), strict=True):
            if isinstance(old, list) and old and isinstance(old[0], torch.Tensor):
                assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))
            elif isinstance(old, torch.Tensor):
                assert torch.equal(old, new)
            else:
                assert old == new
        return str(caught.value)


@pytest.mark.parametrize("row", METHODS.values(), ids=METHODS)
def test_every_method_is_attached_only_where_it_is_accepted(row: Method) -> None:
    frame, client = broadcast_of(row), Untouched()
    others = [name for name in METHODS if name != row.name]
    for data in (frame, frame.to_bytes()):
        client.refuses(MethodNotAcceptedError, data, accept=others)
        if not row.masked:
            text = client.refuses(MethodNotAcceptedError, data)
            assert f"accept=('masked', {row.name!r})" in text
    for accept in ("any", row.name, [row.name, "fedavg"], *(["masked"] * row.masked)):
        model = model_of(3)
        rule = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), frame, steps=1, memory=None, accept=accept)
        assert isinstance(rule, LocalRule)


def asking(frame: Frame, group: Group, codec: Codec) -> Frame:
    """The same broadcast with another template."""

    def changed(s: Section) -> Section:
        if s.role is Role.TEMPLATE and s.group is group:
            return replace(s, codec=codec.id, params=codec.params())
        return s

    return replace(frame, sections=tuple(map(changed, frame.sections)))


@pytest.mark.parametrize("codec", [Raw(), Float16(), Rotated(4), Levels(127, 64), Sign()], ids=repr)
@pytest.mark.parametrize("name", ["fedmrn", "fedmrn-post", "fedmrn-mrc"])
def test_masked_noise_by_name_and_another_code_by_template_is_refused(name: str, codec: Codec) -> None:
    """fedmrn-post trains freely, so that any codec would have been obeyed to the end."""
    frame = asking(broadcast_of(METHODS[name]), Group.CODED, codec)
    assert "nothing was trained" in Untouched().refuses(WrongTemplateError, frame.to_bytes())
    Untouched().refuses(WrongTemplateError, frame, accept="any")


@pytest.mark.parametrize("group", [Group.DENSE, Group.STATS])
def test_side_data_in_another_form_is_refused(group: Group) -> None:
    frame = asking(broadcast_of(METHODS["fedmrn"]), group, Rotated(4))
    Untouched().refuses(WrongTemplateError, frame)


def test_templates_that_do_not_fit_the_model_are_refused_before_training() -> None:
    frame = broadcast_of(METHODS["fedmrn"])
    none = [s for s in frame.sections if s.role is not Role.TEMPLATE]
    some = [s for s in frame.sections if s.role is not Role.TEMPLATE or s.group is not Group.STATS]
    more = [replace(s, count=s.count + 1) if s.role is Role.TEMPLATE else s for s in frame.sections]
    for sections in (none, some, more):
        text = Untouched().refuses(MalformedFrameError, replace(frame, sections=tuple(sections)))
        assert "the broadcast asks for" in text


def test_what_else_is_refused_changes_nothing() -> None:
    frame, client = broadcast_of(METHODS["topk-ef"]), Untouched()
    assert "did you mean 'topk-ef'" in client.refuses(ConfigError, frame, accept="topk-fe")
    client.refuses(UsageError, frame, accept="any")  # a memory is to be told
    client.refuses(FrameError, frame.to_bytes()[:-1], accept="any")
    client.refuses(MalformedFrameError, replace(frame, sections=frame.sections[:-1]), accept="any", memory=None)


def test_the_limits_are_the_clients_own() -> None:
    frame, client = broadcast_of(METHODS["fedmrn"]), Untouched()
    data, count = frame.to_bytes(), len(frame.sections)
    assert "bytes" in client.refuses(LimitError, data, limits=Limits(max_bytes=len(data) - 1))
    assert "sections" in client.refuses(LimitError, data, limits=Limits(max_sections=count - 1))
    model = model_of(3)
    exact = Limits(max_bytes=len(data), max_sections=count, max_weight=1, max_value=1e-6)
    assert attach(model, torch.optim.SGD(model.parameters(), lr=0.1), data, steps=1, limits=exact)


def test_an_update_is_no_broadcast() -> None:
    model = model_of(3)
    rule = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), broadcast_of(METHODS["fedmrn"]), steps=1)
    model(torch.ones(5, 4)).sum().backward()
    rule.step()
    update = rule.finish(weight=1)
    client = Untouched()
    client.refuses(WrongKindError, update.to_bytes())
    client.refuses(WrongKindError, update)


@pytest.mark.parametrize("accept", [None, 5, object(), [["masked"]], [{}], ["masked", None], b"masked", [], ""])
def test_what_is_no_choice_of_methods_is_refused_in_words(accept: Any) -> None:
    frame, client = broadcast_of(METHODS["fedmrn"]), Untouched()
    client.refuses(ConfigError, frame, accept=accept)
