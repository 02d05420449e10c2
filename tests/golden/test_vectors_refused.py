"""vectors/: what a client refuses there is refused by its one call, and models in torch have the folder's layouts."""

import numpy as np
import pytest
import torch
from torch import nn
from vectors import INDEX, data_of, floats_of

from fedmrn import ModelLayout, errors
from fedmrn.torch import attach, load_model
from fedmrn.wire.frame import Frame, Kind, Limits
from fedmrn.wire.held import Held
from fedmrn.wire.layout import Layout
from fedmrn.wire.messages import read_state

REFUSED = {row["name"]: row for row in INDEX["refused"] if row["reader"] == "client"}
START = 0.25
"""Of the weights of a model that has not the run's starting ones."""


class Tiny(nn.Module):
    """The model of the layout `tiny`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(3, 5)), nn.Parameter(torch.zeros(4))
        self.norm = nn.BatchNorm1d(3)


class Lean(nn.Sequential):
    """The model of the layout `lean`."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(14, 9))


MODELS = {"tiny": Tiny, "lean": Lean}


def layout_of(name: str) -> Layout:
    return Layout.from_json(data_of(INDEX["layouts"][name]["file"]))


@pytest.mark.parametrize("name", REFUSED)
def test_a_client_refuses_by_that_error_and_nothing_has_changed(name: str) -> None:
    row = REFUSED[name]
    model, layout = MODELS[row["layout"]](), layout_of(row["layout"])
    view = ModelLayout.of(model)
    assert view.layout == layout
    start = np.array(floats_of(row["start"]), np.float32) if "start" in row else None
    view.write(np.full(layout.size, START, np.float32) if start is None else start)
    held = Held(layout)
    for path in row.get("before", []):
        read_state(Frame.from_bytes(data_of(path)), layout, held)
    before, kept = view.read(), held.to_bytes()
    limits = Limits(**{f"max_{what}": value for what, value in row.get("limits", {}).items()})
    data = data_of(row["file"])
    if row["kind"] == Kind.MODEL.name.lower():
        with pytest.raises(errors.FrameError) as caught:
            load_model(model, data, held=held, limits=limits)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(errors.FrameError) as caught:
            attach(model, optimizer, data, steps=1, held=held, accept=row["accept"], limits=limits)
    assert type(caught.value).__name__ == row["error"]
    assert view.read().tobytes() == before.tobytes()
    assert held.to_bytes() == kept


class Tied(nn.Module):
    """A model whose head is its embedding, and whose positions are frozen: the layout `tied`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 12)
        self.position = nn.Parameter(torch.zeros(8, 12), requires_grad=False)
        self.mix, self.norm = nn.Linear(12, 12), nn.LayerNorm(12)
        self.head = nn.Linear(12, 50, bias=False)
        self.head.weight = self.embed.weight


def test_frozen_and_tied_parameters_have_no_place_of_their_own() -> None:
    view = ModelLayout.of(Tied())
    assert view.layout == layout_of("tied")
    assert (dict(view.tied), view.frozen) == ({"head.weight": "embed.weight"}, ("position",))
    (about,) = (case["about"] for case in INDEX["cases"] if case["name"] == "frozen-and-tied")
    assert "head.weight is its embed.weight (tied)" in about
    assert "position is frozen" in about
