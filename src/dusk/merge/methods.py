"""The methods by name, and from the settings that a user gives to a method that can be had."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

from dusk.errors import SettingError
from dusk.merge.gradient import Gradient, at, gradient
from dusk.merge.linear import Linear, normalised
from dusk.merge.method import Method
from dusk.merge.slerp import Slerp
from dusk.merge.task_arithmetic import TaskArithmetic

DEFAULT_METHOD = "linear"
DEFAULT_T = 0.5

Setting = float | Sequence[float]


@dataclass(frozen=True)
class Given:
    """What the user gives; None where nothing was said. `count` is the number of models without the base."""

    count: int
    base_model: bool
    weights: Sequence[Setting] | None
    t: Setting | None


def _linear(given: Given) -> Linear:
    weights = _weights(given, default=1.0)
    places = {index / max(len(weight) - 1, 1) for weight in weights for index in range(len(weight))}
    at_places = [[at(weight, place) for weight in weights] for place in sorted(places)]
    for here in at_places:
        normalised(here)
    if len({sum(here) > 0 for here in at_places}) > 1:
        raise SettingError("The weights' sum changes its sign over the depth: between, they have no mean.")
    return Linear(weights)


def _slerp(given: Given) -> Slerp:
    if given.count != 2:
        raise SettingError(
            f"SLERP is between two models; {given.count} given.", remedy="Merge two at a time."
        )
    t = _gradient("t", DEFAULT_T if given.t is None else given.t)
    if not all(0 <= value <= 1 for value in t):
        told = ", ".join(f"{value:g}" for value in t)
        raise SettingError(f"`t` is {told}; it goes from 0 (the first model) to 1 (the second).")
    return Slerp(t)


def _task_arithmetic(given: Given) -> TaskArithmetic:
    return TaskArithmetic(_weights(given))


@dataclass(frozen=True)
class _Row:
    make: Callable[[Given], Method]
    settings: tuple[str, ...]
    fewest_models: int = 2


METHODS: dict[str, _Row] = {
    "linear": _Row(_linear, ("weights",)),
    "slerp": _Row(_slerp, ("t",)),
    "task-arithmetic": _Row(_task_arithmetic, ("weights", "base_model"), fewest_models=1),
}


def choose_method(name: str, given: Given) -> Method:
    """The method with its settings; raises `SettingError` for what it cannot have, or lacks."""
    if name not in METHODS:
        raise SettingError(
            f"There is no merge method {name!r}.", remedy=f"The methods are {', '.join(METHODS)}."
        )
    row = METHODS[name]
    if given.count < row.fewest_models:
        raise SettingError(f"A merge needs at least two models; {given.count} given.")
    said = {"weights": given.weights is not None, "t": given.t is not None, "base_model": given.base_model}
    for setting in [setting for setting, is_said in said.items() if is_said]:
        if setting not in row.settings:
            takers = ", ".join(other for other, one in METHODS.items() if setting in one.settings)
            raise SettingError(f"`{setting}` belongs to {takers}; {name} has {' and '.join(row.settings)}.")
    if "base_model" in row.settings and not given.base_model:
        raise SettingError(
            f"{name} needs `base_model`: what the models were tuned from.",
            remedy="The differences from it are what is merged.",
        )
    return row.make(given)


def _weights(given: Given, default: float | None = None) -> tuple[Gradient, ...]:
    if given.weights is None:
        if default is None:
            raise SettingError(
                "`weights` are needed: how much of each model's difference from the base is added.",
                remedy="The method's paper finds 0.3 to 0.5 each on held-out data; 1 adds it whole.",
            )
        return (gradient(default),) * given.count
    if len(given.weights) != given.count:
        raise SettingError(
            f"{len(given.weights)} weights for {given.count} models.", remedy="Give one for each."
        )
    return tuple(_gradient("weights", weight) for weight in given.weights)


def _gradient(name: str, value: Setting) -> Gradient:
    made = gradient(value)
    if not made or not all(map(isfinite, made)):
        raise SettingError(f"`{name}` has to be finite numbers; {value!r} given.")
    return made
