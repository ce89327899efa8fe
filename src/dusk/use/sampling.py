"""How an answer is chosen."""

from dataclasses import dataclass

from dusk.errors import SettingError


@dataclass(frozen=True)
class Sampling:
    """Settings of one answer.

    Attributes:
        max_tokens: the longest answer.
        temperature: what logits are divided by; 0 is greedy.
        top_p: tokens are drawn from the smallest set of at least this probability (Holtzman et al. 2020).
        seed: where every answer's random numbers begin; None for new ones each time.

    Raises:
        SettingError: values out of range; all of them are named.
    """

    max_tokens: int = 512
    temperature: float = 0.7
    top_p: float = 0.95
    seed: int | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.max_tokens < 1:
            problems.append(f"max tokens is {self.max_tokens}, and must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            problems.append(f"temperature is {self.temperature}, and must be a number from 0")
        if not 0 < self.top_p <= 1:
            problems.append(f"top-p is {self.top_p}, and must be above 0 and at most 1")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            problems.append(f"seed is {self.seed}, and must be from 0 to 2^63 - 1")
        if problems:
            raise SettingError("no answer can be chosen so:", problems=problems)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken each time."""
        return self.temperature == 0
