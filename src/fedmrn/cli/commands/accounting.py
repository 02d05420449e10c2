"""The command that accounts for privacy."""

from typing import Annotated

import typer

from fedmrn.cli.say import OUT, say
from fedmrn.errors import ConfigError

_DELTA = 1e-5


def privacy_command(
    clients: Annotated[int, typer.Option(min=1, help="Honest clients whose masks are in each round's sum.")],
    parameters: Annotated[int, typer.Option(min=1, help="Coded parameters; `fedmrn layout` tells them.")],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that a client may be in.")],
    theta: Annotated[float | None, typer.Option(help="Of `fedmrn-s`: tells the epsilon.", show_default=False)] = None,
    epsilon: Annotated[float | None, typer.Option(help="Tells the theta for it.", show_default=False)] = None,
    delta: Annotated[float, typer.Option(help="Of (epsilon, delta).")] = _DELTA,
) -> None:
    """Say which epsilon private masks will have, or which theta an epsilon takes; before training.

    It holds for who sees sums of masks alone. A client's data may be replaced by any other.

    Examples: `fedmrn privacy --clients 1000 --parameters 10010 --rounds 20 --theta 0.01`

    `fedmrn privacy --clients 1000 --parameters 10010 --rounds 20 --epsilon 4`
    """
    from fedmrn.privacy import PrivateRounds, epsilon_of, theta_for

    if (theta is None) == (epsilon is None):
        raise ConfigError("give one of --theta and --epsilon")
    if theta is None:
        theta = theta_for(epsilon or 0.0, clients=clients, coordinates=parameters, rounds=rounds, delta=delta)
    found = epsilon_of([PrivateRounds(theta, clients, parameters, rounds)], delta)
    say(OUT, f"theta {theta:.4g}: with these settings epsilon will be {found:.4g} (delta {delta:g})")
    noise = 1 / (2 * theta * clients**0.5)
    say(OUT, f"an element of the mean has noise of {noise:.3g} times the clip, which is 2 theta scale")
