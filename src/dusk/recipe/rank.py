"""One rank of a training stage: `python -m dusk.recipe.rank FOLDER`, as `ranks.launch` has torchrun start it."""

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from dusk.errors import DuskError
from dusk.recipe.calling import call
from dusk.recipe.ranks import write_told
from dusk.recipe.stopped import die_with_parent

_PROGRESS_SECONDS = 0.2


def main(folder: Path) -> int:
    """Do the task; returns the exit status."""
    die_with_parent()
    rank = os.environ["RANK"]
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    tell = _Teller(folder)
    (folder / f"{rank}.pid").write_text(str(os.getpid()))
    try:
        call(task["function"], task["arguments"], out=task["out"], progress=tell, threads=task["threads"])
    except Exception as error:
        traceback.print_exc()
        if not getattr(error, "told_elsewhere", False):
            write_told(folder / "failure.json", _told(error))
        return error.exit_code if isinstance(error, DuskError) else 1
    finally:
        (folder / f"{rank}.pid").unlink()
    return 0


class _Teller:
    """Leaves word of the progress, a few times a second."""

    def __init__(self, folder: Path) -> None:
        self.file, self.last = folder / "progress.json", 0.0

    def __call__(self, done: float, total: float | None = None, unit: str = "", **values: Any) -> None:
        if time.monotonic() - self.last >= _PROGRESS_SECONDS or done == total:
            self.last = time.monotonic()
            write_told(self.file, {"done": done, "total": total, "unit": unit, "values": values})


def _told(error: Exception) -> dict[str, Any]:
    if isinstance(error, DuskError):
        told = {"message": error.message, "problems": error.problems, "remedy": error.remedy}
        return {"type": type(error).__name__, **told}
    return {"message": f"rank {os.environ['RANK']}: {type(error).__name__}: {error}"}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
