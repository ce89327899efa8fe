"""The settings of a training run: one home for every default, and their checks."""

import difflib
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

from dusk.errors import SettingError
from dusk.train.schedule import SCHEDULES, Schedule

Precision = Literal["fp32", "bf16"]
Optimizer = Literal["adamw", "adamw-bf16", "muon"]
SavedType = Literal["source", "fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What the trainer needs to know besides model, data and objective.

    Token counts are per optimizer step over all devices; `warmup` and `decay` are shares of all steps.
    None means: decided from the model or the machine when the run starts.
    """

    optimizer: Optimizer = "adamw"
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
    weights: Precision = "fp32"  # what is updated; bf16 by stochastic rounding (optimizer adamw-bf16)
    update_in_backward: bool = False  # each gradient is used up as it comes (optimizer adamw-bf16, one pass)
    save_dtype: SavedType = "source"  # source: that of the model that was trained
    gradient_checkpointing: bool = False
    compile: bool = False  # the layers, but for attention, by torch.compile
    train: Literal["all", "new"] = "all"  # new: the layers that the layer map added
    seam_decay: float | None = None  # factor of the rate for each layer of distance from the seam
    lora_rank: int | None = None  # None: no adapters
    lora_alpha: float | None = None  # None: twice the rank
    lora_targets: str | None = None  # names of layers, parted by commas; None: all linear ones
    keep_adapter: bool = False  # also leave the adapters as peft has them
    spike_guard: float | None = None  # standard deviations; None: every update is made
    report_to: str | None = None  # trackio, wandb, tensorboard, parted by commas
    eval_every_tokens: int | None = None  # None: at the start and at the end alone
    eval_tokens: int = 200_000  # at most so many held-out tokens are measured, evenly from all the data
    save_every_seconds: float = 120.0
    token_cache: str | None = (
        None  # folder of token files, for ranks and runs; None: tokens are held in memory
    )
    threads: int | None = None

    def __post_init__(self) -> None:
        problems = [f"{name} is {value}, and must be {rule}" for name, value, rule in self._faults()]
        if problems:
            raise SettingError("these training settings cannot be used:", problems=problems)

    def _faults(self) -> list[tuple[str, object, str]]:
        checks: list[tuple[str, bool, str]] = [
            ("optimizer", self.optimizer in get_args(Optimizer), "adamw, adamw-bf16 or muon"),
            ("weights", self.weights in ("fp32", "bf16"), "fp32 or bf16"),
            (
                "weights",
                self.weights == "fp32" or self.optimizer == "adamw-bf16",
                "fp32 unless the optimizer is adamw-bf16: others would round most updates away",
            ),
            *(
                ("update_in_backward", fine or not self.update_in_backward, rule)
                for fine, rule in (
                    (self.optimizer == "adamw-bf16", "used with optimizer adamw-bf16"),
                    (
                        self.grad_clip == 0,
                        "used with grad_clip 0: the norm of all gradients is known too late to clip",
                    ),
                    (self.spike_guard is None, "used without spike_guard: no update can be skipped"),
                )
            ),
            ("save_dtype", self.save_dtype in get_args(SavedType), "source, fp32 or bf16"),
            ("train", self.train in ("all", "new"), "all or new"),
            ("seam_decay", self.seam_decay is None or 0 < self.seam_decay <= 1, "above 0 and at most 1"),
            ("lora_rank", _absent_or_above(self.lora_rank, 0), "above 0"),
            ("lora_alpha", _absent_or_above(self.lora_alpha, 0), "above 0"),
            ("lora_alpha", self.lora_alpha is None or self.lora_rank is not None, "given with lora_rank"),
            ("keep_adapter", not self.keep_adapter or self.lora_rank is not None, "given with lora_rank"),
            ("spike_guard", _absent_or_above(self.spike_guard, 1), "above 1 (6 is OLMo 2's)"),
            ("report_to", not _unknown_trackers(self.report_to), f"of {', '.join(_TRACKERS)}"),
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


_TRACKERS = ("trackio", "wandb", "tensorboard")


def _unknown_trackers(names: str | None) -> set[str]:
    return set(names.split(",")) - set(_TRACKERS) if names else set()


def _absent_or_above(value: float | None, bound: float) -> bool:
    return value is None or value > bound
