"""The page of a scan: the recommendation, the map of the seams, and what each map costs before training."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dusk.errors import DataError
from dusk.report.chart import Axes, Chart, Line, Moment, Ring, draw
from dusk.report.page import Fact, rendered
from dusk.report.wording import count, duration
from dusk.report.writing import write_whole

SCAN_FILE = "scan.json"
PAGE_FILE = "scan.html"
_TWO_COPIES = "two copies"
_CELL, _EDGE = 16.0, 34.0
_WIDEST = 560.0


@dataclass(frozen=True)
class Cell:
    """One square of the heat map; `share` is its place between the least and the largest angle."""

    x: float
    y: float
    share: float
    words: str


@dataclass(frozen=True)
class HeatMap:
    """The angle between the hidden states at every two depths, drawn."""

    cells: tuple[Cell, ...]
    labels: tuple[tuple[float, str], ...]
    marks: tuple[tuple[float, float], ...]
    cell: float
    edge: float
    size: float
    spoken: str


def write_scan_page(folder: str | Path) -> Path:
    """Write scan.html beside the scan.json of a folder; returns where it lies.

    Raises:
        DataError: there is no scan.json, or it is none.
        OutputError: the file cannot be written.
    """
    file = Path(folder) / SCAN_FILE
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        text = render_scan(result)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is no scan that can be read: {error!r}") from error
    return write_whole(file.with_name(PAGE_FILE), text)


def render_scan(result: Mapping[str, Any]) -> str:
    """The whole page as HTML."""
    measured = [row for row in result["maps"] if "damage" in row]
    return rendered(
        "scan.html.jinja",
        run={
            "name": f"{result['base']['name']}: {result['base']['layers']} to {result['target']['layers']} layers"
        },
        result=result,
        facts=_facts(result, measured),
        heat=heat_map(result),
        charts=[chart for chart in (_seams(result), _sizes(result), _course(result)) if chart],
        measured=measured,
        probed=_probed(result["probes"] or []),
        screened=[row for row in result["maps"] if "damage" not in row],
        duration=duration(result["cost"]["seconds"]),
    )


def _name(result: Mapping[str, Any]) -> str:
    base, target = result["base"], result["target"]
    return f"{base['name']}: {base['layers']} to {target['layers']} layers"


def _facts(result: Mapping[str, Any], measured: list[dict[str, Any]]) -> list[Fact]:
    best = measured[0]
    papers = next(row for row in measured if row["papers"])
    cost = result["cost"]
    facts = [
        Fact(
            "Least damage",
            best["spec"],
            f"{best['damage']:.3f} ± {best['error']:.3f} nats a token above the base",
        ),
        Fact("How sure", f"{best['best']:.0%}", "of resamples of the text have it first"),
    ]
    if papers is not best:
        facts.append(
            Fact("The paper's map", papers["spec"], f"{papers['damage']:.3f} ± {papers['error']:.3f}")
        )
    facts.append(
        Fact(
            "Cost",
            duration(cost["seconds"]),
            f"{cost['screened']} maps screened in one pass of the base, {cost['measured']} measured; "
            f"{cost['measuring_layers']} layers run in place of {cost['measuring_alone']}",
        )
    )
    return facts


def _probed(rounds: list[dict[str, Any]]) -> list[tuple[str, list[float | None]]]:
    """Each map that was trained, the last that was left first, with its loss behind every round."""
    losses: dict[str, list[float | None]] = {}
    for number, tried in enumerate(rounds):
        for row in tried["maps"]:
            losses.setdefault(row["spec"], [None] * len(rounds))[number] = row["loss"]
    places = {
        row["spec"]: (-number, at) for number, r in enumerate(rounds) for at, row in enumerate(r["maps"])
    }
    return sorted(losses.items(), key=lambda item: places[item[0]])


def heat_map(result: Mapping[str, Any]) -> HeatMap:
    """A square for every two depths; the seams of the recommended map are marked."""
    angle = result["depths"]["angle"]
    depths = len(angle)
    cell = min(_CELL * 2, _WIDEST / depths)
    largest = max(max(row) for row in angle) or 1.0

    def place(depth: int) -> float:
        return round(_EDGE + depth * cell, 2)

    cells = tuple(
        Cell(
            x=place(after),
            y=place(before),
            share=round(angle[before][after] / largest, 3),
            words=f"states at depth {before} into layer {after}: {angle[before][after]:.3f}",
        )
        for before in range(depths)
        for after in range(depths)
    )
    every = max(1, -(-depths // 17))
    return HeatMap(
        cells=cells,
        labels=tuple((round(_EDGE + (i + 0.5) * cell, 2), str(i)) for i in range(0, depths, every)),
        marks=tuple((place(after), place(before + 1)) for before, after in result["maps"][0]["seams"]),
        cell=round(cell, 2),
        edge=_EDGE,
        size=round(_EDGE + depths * cell + 2, 2),
        spoken=f"Angle between hidden states at {depths} depths, from 0 to {largest:.2f} of a half turn",
    )


def _seams(result: Mapping[str, Any]) -> Chart | None:
    """Damage of the two-copy maps that were measured, by where the second copy begins."""
    rows = [row for row in result["maps"] if row["family"] == _TWO_COPIES and row["seams"]]
    rows.sort(key=lambda row: row["seams"][0][1])
    points = tuple((float(r["seams"][0][1]), r["damage"]) for r in rows if "damage" in r)
    if len(points) < 2:
        return None
    axes = Axes("first layer of the second copy", "nats a token above the base", _whole, _three)
    papers = next((r for r in rows if r["papers"] and "damage" in r), None)
    rings = [Ring("the paper's", float(papers["seams"][0][1]), papers["damage"])] if papers else []
    return draw("Damage by the place of the seam", [Line("two copies", 1, points)], axes, rings=rings)


def _sizes(result: Mapping[str, Any]) -> Chart | None:
    points = tuple((float(size["parameters"]), size["damage"]) for size in result["sizes"])
    axes = Axes("parameters", "nats a token above the base", count, _three)
    target = Moment("this size", float(result["target"]["parameters"]), 2)
    return draw(
        "Damage of the paper's map by size", [Line("the paper's map", 1, points)], axes, moments=[target]
    )


def _course(result: Mapping[str, Any]) -> Chart | None:
    influence = result["depths"]["block_influence"]
    points = tuple((float(layer), value) for layer, value in enumerate(influence))
    axes = Axes("layer", "1 − cosine of what enters and leaves", _whole, _three)
    return draw("What each layer of the base changes", [Line("block influence", 3, points)], axes)


def _whole(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else ""


def _three(value: float) -> str:
    return f"{value:.3f}"
