"""What a broadcast of private masks (term `theta`) may ask for: masks over one noise, and nothing beside them."""

from fedmrn.errors import ConfigError
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
