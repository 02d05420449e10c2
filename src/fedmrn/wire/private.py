"""What a broadcast of private masks (term `theta`) may ask for, and how an update shows that its client made none."""

from fedmrn.errors import ConfigError, WrongParametersError
from fedmrn.wire.layout import Group, Layout


def check_sums_alone(layout: Layout, theta: float) -> None:
    """Refuse a model of which more than masks would travel, where masks are to be private.

    Args:
        layout: of the model.
        theta: the term; 0 where masks are not private.

    Raises:
        ConfigError: parameters or statistics travel as floats, without noise.
    """
    if not theta:
        return
    beside = [spec.name for spec in layout.tensors if spec.group is not Group.CODED and spec.size]
    if beside:
        raise ConfigError(
            f"theta = {theta:g} makes masks private, and {len(beside)} tensors such as {beside[0]} travel beside them "
            "as floats: take a model without normalisation layers, freeze those, or keep them local (Selection)"
        )


def check_private_weight(weight: int, theta: float) -> None:
    """Refuse the weight of an update that a client of private masks does not write.

    A single bit does not show by which chance it was drawn: a client that lies is not found. One that does not know of
    private masks refuses the term; one that drops it counts its samples, and this shows.

    Args:
        weight: that it claims.
        theta: that clients were told; 0 where masks are not private.

    Raises:
        WrongParametersError: it is not 1.
    """
    if theta and weight != 1:
        raise WrongParametersError(
            f"the update has weight {weight}, and clients were told theta = {theta:g}: a client that draws "
            "private masks says weight 1, so this one draws none; update fedmrn there"
        )
