"""Where the time of a step goes: self time by operator (torch.profiler), CNN4, batch 64, one thread."""

from typing import Any

from steps import FULL, QUICK, Stepper
from torch.profiler import ProfilerActivity, profile, record_function

from fedmrn.methods import METHODS

DRAW = "draw masked weights"
"""What a step of the wrapper takes beside torch's operators: the pass that moves u and draws the next weights."""
LEAST = 0.01  # a smaller share is counted under "other"


def profiled(quick: bool) -> dict[str, Any]:
    """Return the share of each operator in plain's and in FedMRN's step, the largest first."""
    setting = QUICK[0] if quick else FULL[0]
    return {
        "name": f"profile, {setting.name}",
        "shares": {way: _shares(Stepper(way, setting)) for way in ("plain", "fedmrn")},
    }


def _shares(stepper: Stepper) -> dict[str, float]:
    if stepper.way in METHODS:
        move = stepper.move

        def noted() -> None:
            with record_function(DRAW):
                move()

        stepper.move = noted
    stepper()
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        stepper()
    by_operator = {event.key: event.self_cpu_time_total for event in trace.key_averages()}
    total = sum(by_operator.values())
    found = {key: time / total for key, time in sorted(by_operator.items(), key=lambda item: -item[1])}
    large = {key: share for key, share in found.items() if share >= LEAST or key == DRAW}
    return {**large, "other": 1 - sum(large.values())}
