"""Where the time of a step goes: self time by operator (torch.profiler), CNN4, batch 64, one thread."""

from collections.abc import Sequence
from typing import Any

from steps import FULL, QUICK, Stepper
from torch.profiler import ProfilerActivity, profile, record_function

from fedmrn.torch import MaskedNoise
from fedmrn.torch.fast.fused import Move

DRAW = "draw masked weights"
LEAST = 0.01  # a smaller share is counted under "other"


def profiled(quick: bool) -> dict[str, Any]:
    """Return the share of each operator in plain's and in FedMRN's step, the largest first."""
    setting = QUICK[0] if quick else FULL[0]
    return {
        "name": f"profile, {setting.name}",
        "shares": {way: _shares(Stepper(way, setting)) for way in ("plain", "fedmrn")},
    }


def _shares(stepper: Stepper) -> dict[str, float]:
    rule = stepper.optimizer
    if isinstance(rule, MaskedNoise):
        draw = rule._draw_after

        def noted(moves: Sequence[tuple[slice, Move]]) -> None:
            with record_function(DRAW):
                draw(moves)

        rule._draw_after = noted  # type: ignore[method-assign]
    stepper()
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        stepper()
    own = {event.key: event.self_cpu_time_total for event in trace.key_averages()}
    total = sum(own.values())
    found = {key: time / total for key, time in sorted(own.items(), key=lambda item: -item[1])}
    large = {key: share for key, share in found.items() if share >= LEAST or key == DRAW}
    return {**large, "other": 1 - sum(large.values())}
