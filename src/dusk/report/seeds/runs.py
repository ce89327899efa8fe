"""Which folders are the seeds of one recipe, what each of them tells, and what is missing among them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dusk.errors import InputError
from dusk.report.arms import Arms, find_arms
from dusk.report.evaluations import Evaluation, read_evaluations
from dusk.report.run_folder import Run, read_run
from dusk.report.verdict import Outcome, Recovery, recovery_of
from dusk.report.wording import listed

SEEDS = "seed-*"
_NUMBER = re.compile(r"seed-(\d+)")
_NOT_COMPARED = {"seed", "threads", "jobs", "workers"}


@dataclass(frozen=True)
class SeedRun:
    """The run of one seed."""

    seed: int
    run: Run
    arms: Arms
    evaluations: tuple[Evaluation, ...]

    @property
    def name(self) -> str:
        """What the report calls it."""
        return f"seed {self.seed}"

    @property
    def recovery(self) -> Recovery:
        """When it passed its base; not known while its training is not done."""
        arm = self.arms.recovery
        return recovery_of(self.arms) if arm and arm.final.done else Recovery(Outcome.UNKNOWN)


@dataclass(frozen=True)
class Seeds:
    """All seeds of one recipe, by number; `missing` says what there should be and is not."""

    runs: tuple[SeedRun, ...]
    missing: tuple[str, ...]

    @property
    def first(self) -> SeedRun:
        """The run that says what is the same in all: names, labels, layers."""
        return self.runs[0]


def seed_folders(folder: Path) -> list[Path]:
    """The folders seed-0, seed-1 and so on in a folder, by number."""
    found = [path for path in folder.glob(SEEDS) if path.is_dir() and _NUMBER.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("seed-")))


def are_seeds(folders: Sequence[Path]) -> bool:
    """Whether folders of runs differ in nothing but the seed; of one that holds no run the name tells."""
    there = [folder for folder in folders if (folder / "run.json").is_file()]
    if not all(_NUMBER.fullmatch(folder.name) for folder in folders if folder not in there):
        return False
    runs = [SeedRun(_seed(run, place), run, Arms(), ()) for place, run in enumerate(map(read_run, there))]
    return not runs or not _different(runs)


def read_seeds(folders: Sequence[Path]) -> Seeds:
    """Read the runs of several seeds; a folder that holds no run yet is named as missing.

    Raises:
        InputError: none holds a run, two have the same seed, or they are not runs of one recipe.
        DataError: a file of a run is damaged.
    """
    there = [folder for folder in folders if (folder / "run.json").is_file()]
    if not there:
        raise InputError(
            f"none of {listed([str(folder) for folder in folders]) or 'the folders'} holds a run.",
            remedy="Give the folder that `dusk run --seeds` or `dusk demo --full` wrote, or folders of runs.",
        )
    runs = sorted((_read(folder, place) for place, folder in enumerate(there)), key=lambda run: run.seed)
    problems = _different(runs)
    if problems:
        raise InputError(
            "The folders are not the seeds of one recipe.",
            problems=problems,
            remedy="Give runs that differ in nothing but the seed.",
        )
    absent = [f"{folder.name} holds no run.json: nothing of it is here." for folder in folders]
    absent = [line for line, folder in zip(absent, folders, strict=True) if folder not in there]
    lacks = [line for run in runs for line in _lacks(run)]
    return Seeds(tuple(runs), (*absent, *_gaps(folders), *lacks, *_not_evaluated(runs)))


def _read(folder: Path, place: int) -> SeedRun:
    run = read_run(folder)
    return SeedRun(_seed(run, place), run, find_arms(run), read_evaluations(run))


def _seed(run: Run, place: int) -> int:
    told = run.facts.get("seed")
    return told if isinstance(told, int) else place


def _different(runs: Sequence[SeedRun]) -> list[str]:
    """How the runs differ in more than the seed."""
    first, problems = runs[0], []
    settings = _settings(first.run)
    seen: dict[int, Path] = {}
    for each in runs:
        if each.seed in seen:
            problems.append(f"{seen[each.seed]} and {each.run.folder} have the same seed, {each.seed}")
        seen.setdefault(each.seed, each.run.folder)
        if each.run.name != first.run.name:
            problems.append(f"{each.run.folder} is a run of '{each.run.name}', not of '{first.run.name}'")
            continue
        other = _settings(each.run)
        stages = [name for name in {**settings, **other} if settings.get(name) != other.get(name)]
        if stages:
            names = listed([f"'{name}'" for name in stages])
            problems.append(f"{each.run.folder} has other settings than {first.run.folder} in {names}")
    return problems


def _settings(run: Run) -> dict[str, dict[str, Any]]:
    return {
        stage.name: {key: value for key, value in stage.settings.items() if key not in _NOT_COMPARED}
        for stage in run.stages
    }


def _gaps(folders: Sequence[Path]) -> list[str]:
    """The numbers between the first seed and the last that no folder has."""
    numbers = {int(match[1]) for folder in folders if (match := _NUMBER.fullmatch(folder.name))}
    if len(numbers) < len(folders):
        return []
    gaps = sorted(set(range(min(numbers), max(numbers))) - numbers)
    return [f"There is no seed-{number}, though there is a later one." for number in gaps]


def _lacks(each: SeedRun) -> list[str]:
    unfinished = [f"{stage.label} ({stage.status})" for stage in each.run.stages if not stage.done]
    lines = []
    if unfinished:
        lines.append(f"The run of {each.name} is not finished; there is no output of {listed(unfinished)}.")
    lines += [
        f"{stage.label} of {each.name} failed: {stage.error}" for stage in each.run.stages if stage.error
    ]
    if each.arms.recovery and each.arms.recovery.final.done and each.recovery.outcome is Outcome.UNKNOWN:
        lines.append(f"In {each.name} held-out loss was not measured; it counts nowhere in the sentence.")
    return lines


def _not_evaluated(runs: Sequence[SeedRun]) -> list[str]:
    lacking = [each.name for each in runs if not any(one.models for one in each.evaluations)]
    if len(lacking) == len(runs):
        return ["No model was evaluated, so there is no table of scores."]
    return [f"No model of {name} was evaluated; the table of scores is without it." for name in lacking]
