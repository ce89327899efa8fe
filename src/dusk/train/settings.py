"""The settings of a training run: one home for every default, and their checks."""

import difflib
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from dusk.errors import SettingError
from dusk.train.schedule import SCHEDULES, Schedule

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What the trainer needs to know besides model, data and objective.

    Token counts are per optimizer step over all devices; `warmup` and `decay` are shares of all steps.
    None means: decided from the model or the machine when the run starts.
    """

    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 3e-4
    schedule: Schedule = "cosine"
    warmup: float = 0.01
    decay: float = 0.25
    batch_tokens: int = 8192
    micro_batch_tokens: int | None = (
        None  # of one forward pass; None: batch_tokens, at most 4096 (GPU: 16384)
    )
    sequence_length: int | None = None  # None: the model's context, at most 4096
    epochs: int = 1
    tokens: int | None = None  # None: `epochs` times over the data
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    grad_clip: float = 1.0
    seed: int = 0
    precision: Precision | None = None  # None: bf16 on a GPU, fp32 on a CPU; weights are updated in fp32
    gradient_checkpointing: bool = False
    eval_every_tokens: int | None = None  # None: at the start and at the end alone
    eval_tokens: int = 200_000  # at most so many held-out tokens are measured, evenly from all the data
    save_every_seconds: float = 120.0
    threads: int | None = None

    def __post_init__(self) -> None:
        problems = [f"{name} is {value}, and must be {rule}" for name, value, rule in self._faults()]
        if problems:
            raise SettingError("these training settings cannot be used:", problems=problems)

    def _faults(self) -> list[tuple[str, object, str]]:
        checks: list[tuple[str, bool, str]] = [
            ("optimizer", self.optimizer in ("adamw", "muon"), "adamw or muon"),
            ("learning_rate", 0 < self.learning_rate < float("inf"), "above 0"),
            ("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            ("warmup", 0 <= self.warmup <= 1, "between 0 and 1"),
            ("decay", 0 < self.decay <= 1, "above 0 and at most 1"),
            ("decay", self.schedule != "wsd" or self.warmup + self.decay <= 1, "at most 1 with the warmup"),
            ("batch_tokens", self.batch_tokens > 0, "above 0"),
            ("micro_batch_tokens", _absent_or_above(self.micro_batch_tokens, 0), "above 0"),
            ("sequence_length", _absent_or_above(self.sequence_length, 1), "2 or more"),
            ("epochs", self.epochs > 0, "above 0"),
            ("tokens", _absent_or_above(self.tokens, 0), "above 0"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("beta1", 0 <= self.beta1 < 1, "at least 0 and below 1"),
            ("beta2", 0 <= self.beta2 < 1, "at least 0 and below 1"),
            ("grad_clip", self.grad_clip >= 0, "0 or more"),
            ("seed", self.seed >= 0, "0 or more"),
            ("save_every_seconds", self.save_every_seconds >= 0, "0 or more"),
            ("precision", self.precision in (None, "fp32", "bf16"), "fp32 or bf16"),
            ("eval_every_tokens", _absent_or_above(self.eval_every_tokens, 0), "above 0"),
            ("eval_tokens", self.eval_tokens > 0, "above 0"),
            ("threads", _absent_or_above(self.threads, 0), "above 0"),
        ]
        return [(name, getattr(self, name), rule) for name, fine, rule in checks if not fine]

    @classmethod
    def of(cls, given: dict[str, Any], **defaults: Any) -> Self:
        """Settings from what was given (None: not given), over the defaults of an objective.

        Raises:
            SettingError: a name that no setting has, or a value out of its range.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(given) - known)
        if unknown:
            near = difflib.get_close_matches(unknown[0], known, 1)
            raise SettingError(
                f"no training setting is called {', '.join(unknown)}",
                remedy=f"{f'Did you mean {near[0]}? ' if near else ''}There are {', '.join(sorted(known))}.",
            )
        return cls(**{**defaults, **{name: value for name, value in given.items() if value is not None}})

    def to_json(self) -> dict[str, Any]:
        """All settings by name."""
        return asdict(self)


def _absent_or_above(value: int | None, bound: int) -> bool:
    return value is None or value > bound
