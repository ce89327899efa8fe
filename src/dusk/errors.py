"""Every error that dusk raises on purpose.

    DuskError                  exit code 1: the work failed
    ├── WorkError              a stage, a server or a disk gave up; what was done is kept
    │   ├── OutputError        an output could not be written, or somebody else is writing it
    │   └── StoppedError       asked to stop (SIGTERM, SIGUSR1), and stopped; exit code 75
    └── InputError             exit code 2: what was given is wrong
        ├── LayerMapError      a map that no model of this depth can have
        ├── CheckpointError    files that are no model, or not a whole one
        ├── DataError          rows that are missing, malformed or of another kind
        ├── SettingError       a flag or setting out of its range
        └── RecipeError        a recipe that cannot be run

A message says who, what and why; `problems` lists every fault of one input at once; `remedy` says
what to do about them. `Faults` gathers those of several inputs into one error.
"""

from collections.abc import Sequence
from types import TracebackType


class DuskError(Exception):
    """The root: catch it to catch everything that dusk raises on purpose."""

    exit_code = 1

    def __init__(self, message: str, *, problems: Sequence[str] = (), remedy: str = "") -> None:
        self.message = message
        self.problems = list(problems)
        self.remedy = remedy
        super().__init__(message)

    def __str__(self) -> str:
        listed = (problem.replace("\n", "\n    ") for problem in self.problems)  # one may have several lines
        lines = [self.message, *(f"  - {problem}" for problem in listed)]
        if self.remedy:
            lines.append(f"{'What to do: ' if self.problems else ''}{self.remedy}")
        return "\n".join(lines)


class WorkError(DuskError):
    """The work failed although the input was right."""


class OutputError(WorkError):
    """An output could not be written, or another process is writing it."""


class StoppedError(WorkError):
    """The work was asked to stop, and has: what was done is saved, and the same command continues.

    The exit code is EX_TEMPFAIL of sysexits.h, so that a scheduler can tell it from a failure and start again.
    """

    exit_code = 75


class InputError(DuskError):
    """What was given is wrong; nothing was changed."""

    exit_code = 2


class LayerMapError(InputError):
    """A layer map that no model of this depth can have."""


class CheckpointError(InputError):
    """Files that are no model, or not a whole one."""


class DataError(InputError):
    """Rows that are missing, malformed or of another kind than asked for."""


class SettingError(InputError):
    """A flag or setting out of its range."""


class RecipeError(InputError):
    """A recipe that cannot be run."""


class Faults:
    """The faults of several inputs: each input is looked at in a `with` of its own, then all faults are told.

        faults = Faults()
        for model in models:
            with faults:
                opened.append(open_checkpoint(model))
        faults.raise_any(f"{len(faults)} of {len(models)} models cannot be opened")

    Errors of `kind` are faults; any other goes on its way. `len` is the number of inputs that have one.
    """

    def __init__(self, kind: type[InputError] = InputError) -> None:
        self._kind = kind
        self._errors: list[InputError] = []

    def __len__(self) -> int:
        return len(self._errors)

    def __enter__(self) -> None:
        """Look at the next input."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, self._kind):
            return False
        self._errors.append(error)
        return True

    def raise_any(self, message: str) -> None:
        """Raises a single fault as it is, several as one error of `kind` with this message.

        What several inputs say alike is told once.
        """
        told = list(dict.fromkeys(str(error) for error in self._errors))
        if len(told) == 1:
            raise self._errors[0]
        if told:
            raise self._kind(message, problems=told)
