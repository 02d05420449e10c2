"""Which tensors are coded, sent as floats, averaged, or left where they are: the rules, and a choice by names."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase

from torch import Tensor, nn

from fedmrn.errors import ConfigError
from fedmrn.text import nearest
from fedmrn.torch.internals import ANY_BATCH_NORM

_NORMALISATION = (ANY_BATCH_NORM, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_SHORT = re.compile(r"(^|_)ln\d*($|_)")  # ln, ln_1, ln_f, attn_ln
_MOST_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A choice by names of what is compressed, what travels as floats, and what stays with each client.

    Each field is a list of patterns of names as in `model.state_dict()`: "head.*" matches all below head (`fnmatch`).
    What no pattern matches follows the rules of `ModelLayout`. The server and all clients must use the same.

    Attributes:
        coded: trained parameters that the method compresses.
        dense: trained parameters that travel as floats.
        statistics: buffers of floats, or frozen parameters, that training changes: clients' values are averaged.
        variances: statistics that are never negative; they are averaged by their logarithms.
        local: buffers and frozen parameters that are not sent and may change on each client.

    Raises:
        ConfigError: a field is a text in place of a list of texts.
    """

    coded: Collection[str] = ()
    dense: Collection[str] = ()
    statistics: Collection[str] = ()
    variances: Collection[str] = ()
    local: Collection[str] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            patterns = getattr(self, field.name)
            if isinstance(patterns, str) or not all(isinstance(p, str) for p in patterns):
                raise ConfigError(f"Selection({field.name}={patterns!r}): give a list of names or patterns of names")


TRAINED = ("coded", "dense")
OTHERS = ("statistics", "variances", "local")


def chosen(
    selection: Selection,
    kinds: Sequence[str],
    names: Mapping[str, Collection[str]],
    of: str,
    others: Mapping[str, str],
) -> dict[str, str]:
    """Return which of the fields `kinds` names each tensor.

    Args:
        selection: patterns of names.
        kinds: fields of it.
        names: the tensors that these fields choose among, and all names of each.
        of: what these tensors are, for errors.
        others: names of further tensors, and what is wrong with choosing them.

    Raises:
        ConfigError: a pattern matches none of the tensors, or two fields name the same.
    """
    found: dict[str, str] = {}
    for kind in kinds:
        for pattern in getattr(selection, kind):
            hits = [name for name, all_of in names.items() if pattern in all_of or _matches(pattern, all_of)]
            if not hits:
                raise ConfigError(f"Selection({kind}=[{pattern!r}]) {_why(pattern, names, of, others)}")
            for name in hits:
                if found.setdefault(name, kind) != kind:
                    raise ConfigError(f"Selection names {name} both in {found[name]} and in {kind}; leave it in one")
    return found


def is_normalisation(name: str, owner: nn.Module, parameter: Tensor) -> bool:
    """Return whether a parameter belongs to a normalisation layer, of torch or of any other library.

    That is a layer of torch's classes; or one whose class, a class that it derives from, or attribute in the model is
    called ...norm..., or whose attribute is ln, ln_1, ln_f and the like, where the parameter is no matrix.
    """
    if isinstance(owner, _NORMALISATION):
        return True
    axes = parameter.dim() if parameter.dim() < 3 else sum(n > 1 for n in parameter.shape)  # (1, C, 1, 1) is a vector
    attribute = name.split(".")[-2].lower() if "." in name else ""
    classes = [kind.__name__.lower() for kind in type(owner).__mro__ if kind not in (nn.Module, object)]
    called = any("norm" in word for word in (attribute, *classes)) or _SHORT.search(attribute) is not None
    return axes <= 1 and called


def is_statistic(name: str, owner: nn.Module) -> bool:
    """Return whether training changes a buffer of floats: those of batch norm, and others called running_..."""
    return isinstance(owner, ANY_BATCH_NORM) or name.rpartition(".")[2].startswith("running_")


def is_variance(name: str, owner: nn.Module, buffer: Tensor) -> bool:
    """Return whether a buffer is called `running_var` and stands beside a `running_mean` of its shape."""
    buffers = dict(owner.named_buffers(recurse=False))
    mean = buffers.get("running_mean")
    return buffers.get("running_var") is buffer and mean is not None and mean.shape == buffer.shape


def _matches(pattern: str, names: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def _why(pattern: str, names: Iterable[str], of: str, others: Mapping[str, str]) -> str:
    for name, fault in others.items():
        if fnmatchcase(name, pattern):
            return f"matches {name}, which {fault}"
    hint = nearest(pattern, names)
    known = sorted(names)
    if "did you mean" not in hint and len(known) > _MOST_SHOWN:
        hint = f"; they are {', '.join(known[:_MOST_SHOWN])} and {len(known) - _MOST_SHOWN} more"
    return f"matches no {of} of the model{hint if known else '; it has none'}"
