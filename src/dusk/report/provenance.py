"""How to make the run again: its command, recipe, versions and machine, as far as the run folder tells."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from dusk.report.reading import mapping
from dusk.report.run_folder import Run
from dusk.report.wording import memory


@dataclass(frozen=True)
class Provenance:
    """What it takes to make the run again; facts as (name, value)."""

    command: str
    recipe: str
    facts: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    fingerprints: tuple[tuple[str, str], ...]


def provenance_of(run: Run) -> Provenance:
    """Gather what run.json and the manifests of the stages say."""
    told = run.facts.get("command")
    command = " ".join(["dusk run recipe.yaml --out", shlex.quote(run.folder.name or "RUN")])
    return Provenance(
        command=str(told) if told else command,
        recipe=run.recipe or "",
        facts=tuple(_facts(run)),
        versions=tuple(sorted(_versions(run).items())),
        fingerprints=tuple(
            (stage.label, stage.fingerprint[:16]) for stage in run.stages if stage.fingerprint
        ),
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    names = {
        "seed": "Seed",
        "jobs": "Stages side by side",
        "threads": "Threads a stage",
        "started": "Started",
    }
    facts = [
        (words, str(run.facts[name])) for name, words in names.items() if run.facts.get(name) is not None
    ]
    for name, value in mapping(run.facts.get("machine")).items():
        words = memory(value) if name.endswith("_bytes") and isinstance(value, int | float) else str(value)
        facts.append((name.removesuffix("_bytes").replace("_", " ").capitalize(), words))
    return facts


def _versions(run: Run) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for stage in run.stages:
        if stage.kind != "base":  # a base was made elsewhere, perhaps long ago
            found |= {
                str(name): str(version) for name, version in mapping(stage.manifest.get("versions")).items()
            }
    found |= {str(name): str(version) for name, version in mapping(run.facts.get("versions")).items()}
    if run.facts.get("dusk"):
        found["dusk"] = str(run.facts["dusk"])
    return found
