"""The methods by name, and from the settings that a user gives to a method that can be had."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

from dusk.errors import SettingError
from dusk.merge.dare import Dare
from dusk.merge.gradient import Gradient, at, gradient
from dusk.merge.linear import Linear, normalised
from dusk.merge.method import Method
from dusk.merge.model_stock import ModelStock
from dusk.merge.slerp import Slerp
from dusk.merge.task_arithmetic import TaskArithmetic
from dusk.merge.ties import Ties

DEFAULT_METHOD = "linear"
DEFAULT_T = 0.5
DEFAULT_SEED = 0
TIES_DENSITY = 0.2  # TIES keeps the top 20 % where nothing is known (section 4)
DARE_DENSITY = 0.1  # DARE drops 90 % without a loss (section 4.2)
TIES_SCALING = 1.0

Setting = float | Sequence[float]


@dataclass(frozen=True)
class Given:
    """What the user gives; None where nothing was said. `count` is the number of models without the base."""

    count: int
    base_model: bool
    weights: Sequence[Setting] | None
    t: Setting | None
    density: Setting | None
    scaling: float | None
    seed: int | None

    def said(self) -> list[str]:
        """The names of the settings that the user gave."""
        return [
            name
            for name, value in vars(self).items()
            if name != "count" and value is not None and value is not False
        ]


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


def _ties(given: Given) -> Ties:
    weights = _weights(given, default=1.0)
    if any(value < 0 for weight in weights for value in weight):
        raise SettingError("TIES elects signs: its weights cannot be negative.")
    scaling = TIES_SCALING if given.scaling is None else given.scaling
    if not isfinite(scaling):
        raise SettingError(f"`scaling` is {scaling}; it has to be a finite number.")
    return Ties(weights, _density(given, TIES_DENSITY), scaling)


def _dare(given: Given) -> Dare:
    seed = DEFAULT_SEED if given.seed is None else given.seed
    return Dare(_weights(given), _density(given, DARE_DENSITY), seed)


def _model_stock(given: Given) -> ModelStock:
    return ModelStock()


@dataclass(frozen=True)
class _Row:
    make: Callable[[Given], Method]
    settings: tuple[str, ...]
    fewest_models: int = 2


METHODS: dict[str, _Row] = {
    "linear": _Row(_linear, ("weights",)),
    "slerp": _Row(_slerp, ("t",)),
    "task-arithmetic": _Row(_task_arithmetic, ("weights", "base_model"), fewest_models=1),
    "ties": _Row(_ties, ("weights", "density", "scaling", "base_model")),
    "dare": _Row(_dare, ("weights", "density", "seed", "base_model"), fewest_models=1),
    "model-stock": _Row(_model_stock, ("base_model",)),
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
    for setting in given.said():
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


def _density(given: Given, default: float) -> Gradient:
    density = _gradient("density", default if given.density is None else given.density)
    if not all(0 < value <= 1 for value in density):
        shown = ", ".join(f"{value:g}" for value in density)
        raise SettingError(
            f"`density` is {shown}; it is the share of each difference that stays, above 0 and at most 1."
        )
    return density


def _gradient(name: str, value: Setting) -> Gradient:
    made = gradient(value)
    if not made or not all(map(isfinite, made)):
        raise SettingError(f"`{name}` has to be finite numbers; {value!r} given.")
    return made
