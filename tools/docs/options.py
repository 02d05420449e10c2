"""The options of methods as Markdown, from the table of methods and the configuration of a run."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields

from fedmrn.experiments.config import COMMON, MethodConfig
from fedmrn.methods import DOWN, METHODS, SIDE, Option
from fedmrn.methods.optimizers import LOCAL_OPTIMIZERS
from fedmrn.methods.option import NumberOption, ScaleOption, WholeOption, WordOption
from fedmrn.server.optimizer import SERVER

COMMON_WORDS: Mapping[str, str] = {
    "lr": "learning rate of local training",
    "optimizer": "the optimizer of local training",
    "weight_decay": "of local training, on all trained parameters",
    "side": "[how normalisation layers and their statistics travel up](../methods.md#side-data-side)",
    "down": "[how the model travels down](../methods.md#the-broadcast-down)",
    "grid_step": 'step of public models, over what a tensor moved; with `down = "grid"`',
    "grid_hysteresis": 'steps beyond half of one that a number stays; with `down = "grid"`',
    "server": "[how the server steps along the mean](../methods.md#the-servers-step-server)",
    "server_lr": "the server's learning rate",
    "server_beta": "decay of the server's first moment; with `momentum` and `adam`",
    "server_beta2": "decay of the server's second moment; with `adam`",
    "server_tau": "added to the root of the second moment; with `adam`",
}
"""What each option that all methods have means."""
CHOICES: Mapping[str, Iterable[str]] = {"optimizer": LOCAL_OPTIMIZERS, "side": SIDE, "down": DOWN, "server": SERVER}
"""The words that those of them take which are no numbers."""


def options_part() -> str:
    """Return the tables: methods with their options, options of all methods, and a section for each option."""
    return "\n\n".join(("## Methods", _methods(), "## Options of every method", _common(), *_specific()))


def _methods() -> str:
    rows = (
        (f"`{m.name}`", _cell(m.summary), ", ".join(f"[`{name}`](#{name})" for name in m.options), str(m.id))
        for m in METHODS.values()
    )
    return table(("method", "what it sends", "options", "id"), rows)


def _common() -> str:
    defaults = {field.name: field.default for field in fields(MethodConfig)}
    rows = (
        (f"`{name}`", COMMON_WORDS[name], _value(defaults[name]), _listed(CHOICES.get(name, ())) or "a number")
        for name in COMMON
    )
    return table(("option", "what it is", "default", "values"), rows)


def _specific() -> Iterator[str]:
    """Yield a section for each option that some methods have."""
    found: defaultdict[str, dict[str, Option]] = defaultdict(dict)
    for row in METHODS.values():
        for option in row.options.values():
            found[option.name][row.name] = option
    yield "## Options of some methods"
    yield "What a client has to know of them is in the broadcast: in its templates, or in its terms."
    for name, by_method in sorted(found.items()):
        first = next(iter(by_method.values()))
        yield f"### `{name}`"
        yield f"{_sentence(first.words)}\n\nValues: {_values(first)}.\nRead by the {first.read_by.value}."
        defaults: defaultdict[str, list[str]] = defaultdict(list)
        for method, option in by_method.items():
            defaults[f"the run's `{option.follows}`" if option.follows else _value(option.default)].append(method)
        yield table(("default", "methods"), ((value, _listed(names)) for value, names in defaults.items()))


def _values(option: Option) -> str:
    match option:
        case WordOption():
            return _listed(option.choices)
        case ScaleOption():
            return 'a number, or `"auto"`'
        case NumberOption():
            return "a number"
        case WholeOption():
            return "a whole number"
    raise TypeError(f"no words for options such as {option}")


def _value(value: object) -> str:
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith('.') else '.'}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of Markdown."""
    head = tuple(head)
    lines = (head, ("---",) * len(head), *rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
