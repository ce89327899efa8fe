"""What a stage's settings are made of: the base class, and the types that a recipe's values have.

A setting that is left out is not given to the library function, so that every default has one home:
the function. Field descriptions are also the help texts of the command line's flags.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_SCALES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kmbt]?)", re.IGNORECASE)


@dataclass(frozen=True)
class Reference:
    """Marks a setting whose text may name another stage's output.

    `model`: the name of an earlier stage. `file`: `stage`, `stage/file` or a path on this machine.
    `suite`: as `file`, or the name of a suite that is built in. `data`: as `file`, or a data set of the hub.
    """

    to: Literal["model", "file", "suite", "data"]


def parse_count(value: Any) -> Any:
    """`400k`, `1.5M` and `11B` as whole numbers; everything else is left for the type to judge."""
    match = _COUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return value
    count = float(match[1]) * _SCALES[match[2].lower()]
    return int(count) if count.is_integer() else value


def parse_over_depth(value: Any) -> Any:
    """`0,0.5,1` (or `0:0.5:1`, where commas part other things) as numbers; what is no text is left as it is."""
    if not isinstance(value, str):
        return value
    try:
        numbers = [float(part) for part in re.split("[,:]", value)]
    except ValueError:
        raise ValueError("it has to be a number, or numbers over the depth such as 0,0.5,1") from None
    return numbers if len(numbers) > 1 else numbers[0]


Model = Annotated[str, Reference("model")]
File = Annotated[str, Reference("file")]
Data = Annotated[str, Reference("data")]
Suite = Annotated[str, Reference("suite")]
Count = Annotated[int, BeforeValidator(parse_count), Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
OverDepth = Annotated[float | list[float], BeforeValidator(parse_over_depth)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class StageSettings(BaseModel):
    """The settings of one stage, named as the parameters of the library function that it calls.

    `label` is what tables and pictures call the stage; the function does not see it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: str
    label: str | None = None

    def given(self) -> dict[str, Any]:
        """The settings that the recipe gives, in the order of the schema: the function's keywords."""
        return self.model_dump(exclude_unset=True, exclude={"kind", "label"})

    def shown(self) -> dict[str, Any]:
        """The settings with the label, as the resolved recipe and run.json have them."""
        return ({"label": self.label} if self.label else {}) | self.given()

    @classmethod
    def draws(cls, values: Mapping[str, Any]) -> bool:
        """Whether a stage of these settings draws at random, so that the recipe's seed is its, too."""
        return "seed" in cls.model_fields

    @classmethod
    def keywords(cls) -> list[str]:
        """The names of the settings that the function sees."""
        return [key for key in cls.model_fields if key not in {"kind", "label"}]

    @classmethod
    def references(cls) -> dict[str, Reference]:
        """The fields whose text names another stage's output."""
        found = {
            name: _reference(field.annotation, field.metadata) for name, field in cls.model_fields.items()
        }
        return {name: reference for name, reference in found.items() if reference is not None}


def _reference(annotation: Any, metadata: Any = ()) -> Reference | None:
    """The mark on a type, or on what it is made of (`list[File]`, `Model | None`)."""
    for mark in metadata:
        if isinstance(mark, Reference):
            return mark
    for part in get_args(annotation):
        found = _reference(part, getattr(part, "__metadata__", ()))
        if found is not None:
            return found
    return None
