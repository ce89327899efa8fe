"""The picture of which model came from which: a layered drawing of the graph of stages, from left to right.

A model stands one rank right of the furthest of its parents (longest path). Edges that pass over a rank get a
waypoint in it, ranks are ordered by the mean place of their neighbours, and what continues stays in line.
Source: K. Sugiyama, S. Tagawa and M. Toda, Methods for Visual Understanding of Hierarchical System Structures
(1981), reduced to what a recipe needs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from dusk.report.arms import SAME_COMPUTE, SAME_TOKENS, Arms
from dusk.report.layer_strip import Shade, shades
from dusk.report.run_folder import Run, Stage
from dusk.report.wording import count

NODE_WIDTH, NODE_HEIGHT, GAP_X, GAP_Y, MARGIN = 146, 68, 24, 18, 2
_SWEEPS = 6
_STRIP_WIDTH, _STRIP_CELL = NODE_WIDTH - 20, 8.0
_LETTERS, _LETTERS_AT_EASE = 20, 15  # more than fit at ease are set closer, more than fit at all are cut

_KIND_WORDS = {
    "base": "base",
    "scale": "scaled",
    "pretrain": "pretrained",
    "sft": "instruction-tuned",
    "align": "aligned",
    "merge": "merged",
}
_ROLE_WORDS = {SAME_TOKENS: "control: same tokens", SAME_COMPUTE: "control: same compute"}


@dataclass
class Node:
    """A model's box, or (without a stage) a waypoint of an edge; x and y are its left top corner.

    `squeezed` is the width in pixels that a long title is set into.
    """

    key: str
    rank: int
    stage: Stage | None = None
    x: float = 0.0
    y: float = 0.0
    title: str = ""
    facts: str = ""
    work: str = ""
    tone: str = ""
    squeezed: int | None = None
    strip: Sequence["StripCell"] = field(default_factory=tuple)


@dataclass(frozen=True)
class StripCell:
    """One layer of a model, as a bar at the foot of its box."""

    x: float
    width: float
    shade: str


@dataclass(frozen=True)
class Edge:
    """A curve from a parent to its child, as an SVG path."""

    path: str
    tone: str


@dataclass(frozen=True)
class Picture:
    """The drawing: boxes, curves and size in pixels; `spoken` says the same in words, a line a model."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    width: float
    height: float
    spoken: tuple[str, ...]
    node_width: int = NODE_WIDTH
    node_height: int = NODE_HEIGHT


def lineage(run: Run, arms: Arms) -> Picture:
    """Draw the models of a run."""
    models = {stage.name: stage for stage in run.models}
    parents = {name: [p for p in stage.parents if p in models] for name, stage in models.items()}
    ranks = _ranks(parents)
    nodes = {name: Node(name, ranks[name], stage) for name, stage in models.items()}
    routes = _routes(parents, ranks, nodes)
    order = _ordered(nodes, routes)
    _place(order, routes)
    deepest = max((stage.layers or 0 for stage in models.values()), default=0)
    maps = shades(run)
    for node in nodes.values():
        if node.stage is not None:
            _describe(node, node.stage, arms, deepest, maps)
    boxes = tuple(node for node in nodes.values() if node.stage is not None)
    return Picture(
        nodes=boxes,
        edges=tuple(_edge([nodes[key] for key in route]) for route in routes),
        width=max((node.x for node in nodes.values()), default=0) + NODE_WIDTH + MARGIN,
        height=max((node.y for node in nodes.values()), default=0) + NODE_HEIGHT + MARGIN,
        spoken=tuple(_spoken(node, parents[node.key], models) for node in boxes),
    )


def _ranks(parents: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Longest path from a model without parents; a circle (no recipe has one) is cut where it closes."""
    ranks: dict[str, int] = {}

    def rank(name: str, above: frozenset[str]) -> int:
        if name not in ranks:
            given = [rank(parent, above | {name}) + 1 for parent in parents[name] if parent not in above]
            ranks[name] = max(given, default=0)
        return ranks[name]

    for name in parents:
        rank(name, frozenset({name}))
    return ranks


def _routes(
    parents: Mapping[str, Sequence[str]], ranks: Mapping[str, int], nodes: dict[str, Node]
) -> list[list[str]]:
    """Every edge as keys of nodes in neighbouring ranks; adds the waypoints to `nodes`."""
    routes = []
    for child, of in parents.items():
        for parent in of:
            between = range(ranks[parent] + 1, ranks[child])
            keys = [f"{parent}\0{rank}" for rank in between]  # edges of one parent share their way
            for key, rank in zip(keys, between, strict=True):
                nodes.setdefault(key, Node(key, rank))
            routes.append([parent, *keys, child])
    return routes


def _ordered(nodes: Mapping[str, Node], routes: Sequence[Sequence[str]]) -> list[list[Node]]:
    """The nodes of each rank from top to bottom, with few crossings."""
    order: list[list[Node]] = [[] for _ in range(max((node.rank for node in nodes.values()), default=-1) + 1)]
    leads = {route[0] for route in routes}
    for node in sorted(nodes.values(), key=lambda node: node.key not in leads and node.stage is not None):
        order[node.rank].append(node)  # a model that nothing continues (a control) stands below
    links = [link for route in routes for link in pairwise(route)]
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for rank in order if down else reversed(order):
            places = {node.key: place for nodes_of in order for place, node in enumerate(nodes_of)}
            weights = {node.key: _mean_place(node.key, links, places, down) for node in rank}
            rank.sort(key=lambda node: weights[node.key])
    return order


def _mean_place(key: str, links: Sequence[tuple[str, str]], places: Mapping[str, int], down: bool) -> float:
    near = [places[a if down else b] for a, b in links if key == (b if down else a)]
    return sum(near) / len(near) if near else float(places[key])


def _place(order: Sequence[Sequence[Node]], routes: Sequence[Sequence[str]]) -> None:
    """Give each node its corner: as near to its parents' height as its neighbours in the rank allow."""
    above: dict[str, list[str]] = {}
    for route in routes:
        for before, after in pairwise(route):
            above.setdefault(after, []).append(before)
    heights: dict[str, float] = {}
    step = NODE_HEIGHT + GAP_Y
    for number, rank in enumerate(order):
        wanted = [_wanted(above.get(node.key, []), heights, place * step) for place, node in enumerate(rank)]
        for node, height in zip(rank, _spread(wanted, step), strict=True):
            heights[node.key] = height
            node.x = MARGIN + number * (NODE_WIDTH + GAP_X)
    top = min(heights.values(), default=0.0)
    for rank in order:
        for node in rank:
            node.y = MARGIN + heights[node.key] - top


def _wanted(parents: Sequence[str], heights: Mapping[str, float], otherwise: float) -> float:
    known = [heights[parent] for parent in parents]
    return sum(known) / len(known) if known else otherwise


def _spread(wanted: Sequence[float], step: float) -> list[float]:
    """Heights at least a step apart, in the given order, near the wanted ones: runs that touch move as one."""
    runs: list[list[float]] = []  # of each run the wanted heights, less their place in the run
    for height in wanted:
        runs.append([height])
        while len(runs) > 1 and _start(runs[-1]) < _start(runs[-2]) + len(runs[-2]) * step:
            tail = runs.pop()
            shift = len(runs[-1]) * step
            runs[-1] += [value - shift for value in tail]
    return [_start(run) + place * step for run in runs for place in range(len(run))]


def _start(run: Sequence[float]) -> float:
    return sum(run) / len(run)


def _edge(nodes: Sequence[Node]) -> Edge:
    middle = NODE_HEIGHT / 2
    path = f"M{nodes[0].x + NODE_WIDTH:g} {nodes[0].y + middle:g}"
    x = nodes[0].x + NODE_WIDTH
    for before, after in pairwise(nodes):
        bend = (x + after.x) / 2
        from_y, to_y = before.y + middle, after.y + middle
        path += f"C{bend:g} {from_y:g} {bend:g} {to_y:g} {after.x:g} {to_y:g}"
        x = after.x
        if after.stage is None:
            x = after.x + NODE_WIDTH
            path += f"H{x:g}"
    child = nodes[-1].stage
    return Edge(path, child.kind if child else "")


def _describe(
    node: Node, stage: Stage, arms: Arms, deepest: int, maps: Mapping[str, Sequence[Shade]]
) -> None:
    node.title = stage.label if len(stage.label) <= _LETTERS else f"{stage.label[: _LETTERS - 1]}…"
    node.squeezed = _STRIP_WIDTH if len(node.title) > _LETTERS_AT_EASE else None
    sizes = [f"{stage.layers} layers" if stage.layers else "", count(stage.parameters)]
    node.facts = " · ".join(part for part in sizes if part)
    role = next((arm.role for arm in arms.controls if stage in arm.chain), None)
    words = _ROLE_WORDS.get(role, "control") if role else _KIND_WORDS[stage.kind]
    node.work = words if stage.done else f"{words}: {stage.status}"
    node.tone = "control" if role else stage.kind
    cell = min(_STRIP_CELL, _STRIP_WIDTH / max(1, deepest))
    node.strip = tuple(
        StripCell(10 + place * cell, max(0.8, cell - 1), shade.colour)
        for place, shade in enumerate(maps.get(stage.name, ()))
    )


def _spoken(node: Node, parents: Sequence[str], models: Mapping[str, Stage]) -> str:
    label = models[node.key].label
    made = f" from {', '.join(models[parent].label for parent in parents)}" if parents else ""
    return f"{label}: {node.work}{made}" + (f"; {node.facts}" if node.facts else "")
