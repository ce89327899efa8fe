"""The geometry of the report's drawings: the lineage, the layer map, the charts."""

import math
from pathlib import Path

import pytest

from dusk.layers import LayerMap
from dusk.report.arms import find_arms
from dusk.report.chart import HEIGHT, WIDTH, Axes, Level, Line, averaged, draw, nice_ticks, tick_label
from dusk.report.forest import forest_of
from dusk.report.layer_strip import layer_strip, shade, shades
from dusk.report.lineage import GAP_X, NODE_HEIGHT, NODE_WIDTH, Picture, lineage
from dusk.report.metrics import read_metrics
from dusk.report.plots import plots_of
from dusk.report.run_folder import Run, read_run
from dusk.report.verdict import gains_of
from report_runs import FakeStage, whole_run, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read_run(write_run(tmp_path_factory.mktemp("drawings") / "run", whole_run()))


@pytest.fixture(scope="module")
def picture(run: Run) -> Picture:
    return lineage(run, find_arms(run))


class TestLineage:
    def test_children_stand_right_of_their_parents(self, run: Run, picture: Picture) -> None:
        across = {node.key: node.x for node in picture.nodes}
        for stage in run.models:
            for parent in stage.parents:
                assert across[stage.name] >= across[parent] + NODE_WIDTH + GAP_X
        assert across["constant"] == across["decayed"] == min(across.values())
        assert across["merge_slerp"] == max(across.values())

    def test_no_two_boxes_overlap_and_all_lie_inside(self, picture: Picture) -> None:
        for node in picture.nodes:
            assert 0 <= node.x <= picture.width - NODE_WIDTH
            assert 0 <= node.y <= picture.height - NODE_HEIGHT
            for other in picture.nodes:
                apart = abs(node.x - other.x) >= NODE_WIDTH or abs(node.y - other.y) >= NODE_HEIGHT
                assert node is other or apart, (node.key, other.key)

    def test_what_continues_stays_in_line(self, picture: Picture) -> None:
        heights = {node.key: node.y for node in picture.nodes}
        assert heights["scaled"] == heights["recovered"]
        assert heights["scaled"] < heights["base_same_tokens"]

    def test_every_model_and_every_parent_is_drawn(self, run: Run, picture: Picture) -> None:
        assert {node.key for node in picture.nodes} == {stage.name for stage in run.models}
        assert len(picture.edges) == sum(len(stage.parents) for stage in run.models)
        assert "sft_average: merged from sft_v3, sft_v4; 12 layers · 724k" in picture.spoken
        assert "base_same_tokens: control: same tokens from constant; 8 layers · 570k" in picture.spoken

    def test_layers_in_the_colours_of_the_base(self, run: Run, picture: Picture) -> None:
        strips = {node.key: [cell.shade for cell in node.strip] for node in picture.nodes}
        base = strips["constant"]
        assert len(base) == 8
        assert strips["scaled"] == strips["merge_slerp"] == base[:6] + base[2:]

    def test_a_large_graph(self, tmp_path: Path) -> None:
        stages = [FakeStage("base", "model")]
        stages += [FakeStage(f"m{i}", "merge", {"models": [s.name for s in stages[-1:]]}) for i in range(1)]
        stages += [FakeStage(f"sft{i}", "sft", {"model": "base"}) for i in range(30)]
        stages += [FakeStage("all", "merge", {"models": [f"sft{i}" for i in range(30)] + ["m0"]})]
        found = read_run(write_run(tmp_path / "run", stages))
        drawn = lineage(found, find_arms(found))
        assert len({(node.x, node.y) for node in drawn.nodes}) == len(stages)


class TestLayerStrip:
    def test_the_papers_map(self, tmp_path: Path) -> None:
        stages = [FakeStage("b", "model", layers=32), FakeStage("s", "scale", {"base": "b"}, layers=48)]
        stages[1].layer_map = LayerMap.depthwise(32)
        stage = read_run(write_run(tmp_path / "run", stages)).stage("s")
        assert stage is not None
        strip = layer_strip(stage, "b")
        assert strip is not None
        assert [cell.label for cell in strip.below] == [str(i) for i in [*range(24), *range(8, 32)]]
        assert len(strip.above) == 32
        assert len(strip.links) == 48
        (seam,) = strip.seams
        assert seam.x == pytest.approx(24 * strip.cell)
        assert seam.words == "seam: layer 23 is followed by layer 8"
        assert strip.above[0].x == pytest.approx(8 * strip.cell)  # the shorter row stands in the middle

    def test_identity_blocks_are_marked(self, tmp_path: Path) -> None:
        stages = [FakeStage("s", "scale", {"base": "b"}, layer_map=LayerMap.interleave_identity(4, 2))]
        stage = read_run(write_run(tmp_path / "run", stages)).stage("s")
        assert stage is not None
        strip = layer_strip(stage, "b")
        assert strip is not None
        assert sum(cell.fresh for cell in strip.below) == 2
        assert strip.seams == ()

    def test_a_map_that_is_none(self, tmp_path: Path) -> None:
        folder = write_run(tmp_path / "run", [FakeStage("s", "scale", {"base": "b"})])
        (folder / "s" / "dusk.json").write_text(
            '{"layer_map": {"base_layers": 2, "source": [9], "fresh": [false]}}'
        )
        stage = read_run(folder).stage("s")
        assert stage is not None
        assert layer_strip(stage, "b") is None

    def test_colours_grow_lighter_and_their_ink_is_read(self) -> None:
        def luminance(colour: str) -> float:
            parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
            red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
            return 0.2126 * red + 0.7152 * green + 0.0722 * blue

        colours = [shade(layer, 32) for layer in range(32)]
        lights = [luminance(colour.colour) for colour in colours]
        assert lights == sorted(lights)
        for colour, light in zip(colours, lights, strict=True):
            low, high = sorted([light, luminance(colour.ink)])
            assert (high + 0.05) / (low + 0.05) >= 4.0

    def test_models_of_unknown_depth_have_no_colours(self, tmp_path: Path) -> None:
        found = read_run(write_run(tmp_path / "run", [FakeStage("b", "model", layers=None)]))
        assert shades(found) == {}


class TestChart:
    def test_places_of_points(self) -> None:
        axes = Axes("x", "y", str, str)
        chart = draw("t", [Line("a", 1, ((0.0, 1.0), (10.0, 3.0)))], axes, levels=[Level("l", 2.0)])
        assert chart is not None
        first, last = chart.lines[0].dots
        assert (first.x, last.x) == (chart.left, chart.right)
        assert first.y > last.y  # up is more
        assert chart.levels[0].place == pytest.approx((first.y + last.y) / 2, abs=0.02)
        for dot in (first, last):
            assert 0 < dot.x < WIDTH
            assert 0 < dot.y < HEIGHT

    @pytest.mark.parametrize("step", [0.0, 1e-17, 3e-16])
    def test_values_that_differ_by_rounding_alone_are_one(self, step: float) -> None:
        axes = Axes("x", "y", str, str)
        chart = draw("flat", [Line("a", 1, ((1e9, 1.7), (1e9 + step, 1.7 + step)))], axes)
        assert chart is not None
        assert [tick.label for tick in chart.y_ticks] == ["2"]
        assert len({dot.y for dot in chart.lines[0].dots}) == 1

    def test_values_that_are_no_numbers_are_left_out(self) -> None:
        line = Line("a", 1, ((0.0, math.nan), (1.0, 2.0), (2.0, math.inf)))
        chart = draw("t", [line], Axes("x", "y", str, str))
        assert chart is not None
        assert len(chart.lines[0].dots) == 1
        assert draw("t", [Line("a", 1, ((0.0, math.nan),))], Axes("x", "y", str, str)) is None

    @pytest.mark.parametrize(
        ("low", "high", "expected"),
        [
            (0, 10, [0, 2, 4, 6, 8, 10]),
            (2.3, 2.5, [2.3, 2.35, 2.4, 2.45, 2.5]),
            (5, 5, [5]),
            (0, 0.03, [0, 0.01, 0.02, 0.03]),
        ],
    )
    def test_ticks(self, low: float, high: float, expected: list[float]) -> None:
        inside = [tick for tick in nice_ticks(low, high) if low - 1e-9 <= tick <= high + 1e-9]
        assert inside == pytest.approx(expected)

    def test_tick_labels(self) -> None:
        assert tick_label(2.35, [2.3, 2.35]) == "2.35"
        assert tick_label(-2.0, [-2.0, 0.0]) == "\u22122"
        assert tick_label(0.2, [0.0, 0.2]) == "0.2"

    def test_long_lines_are_averaged(self) -> None:
        points = [(float(x), float(x % 2)) for x in range(1000)]
        shorter = averaged(points, 100)
        assert len(shorter) == 100
        assert all(y == 0.5 for _, y in shorter)
        assert shorter[0][0] == 4.5

    def test_what_a_run_plots(self, run: Run) -> None:
        plots = plots_of(run, find_arms(run))
        by_tokens, by_compute = plots.recovery
        assert [line.label for line in by_tokens.lines] == [
            "recovered",
            "base, same tokens (base_same_tokens)",
            "base, same compute (base_same_compute)",
        ]
        assert [level.label for level in by_tokens.levels] == [
            "base, untouched (constant)",
            "another base (decayed)",
        ]
        assert by_tokens.rings[0].label == "passed at 600k"
        assert by_compute.rings[0].label == "passed at 2.6\u00d710\u00b9\u00b2"  # 6 x 724k x 600k
        assert (
            by_compute.lines[0].dots[-1].x_words == "7\u00d710\u00b9\u00b2"
        )  # 6 x 724k parameters x 1.6M tokens
        assert [chart.title for chart in plots.losses] == [
            "Pretraining loss",
            "Instruction-tuning loss",
            "Preference loss",
        ]
        assert [chart.title for chart in plots.alignment] == ["Reward margin", "Reward accuracy"]
        assert [tick.label for tick, _ in plots.alignment[0].moments] == ["step 2", "step 2"]

    def test_decay_is_marked_at_its_first_step(self, run: Run) -> None:
        stage = run.stage("recovered")
        assert stage is not None
        assert stage.metrics.decay_tokens() == 1_200_000  # after 30 of 40 steps of 40k tokens
        tuned = run.stage("candidate_1")
        assert tuned is not None
        assert tuned.metrics.decay_tokens() is None


def test_steps_of_sdpo_are_counted_on(run: Run) -> None:
    stage = run.stage("candidate_1")
    assert stage is not None
    assert [row["step"] for row in stage.metrics.train] == [float(step) for step in range(1, 41)]


def test_a_step_written_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"kind":"train","step":1,"loss":3.0}\n{"kind":"train","step":2,"loss":2.5}\n{"kind":"train","step":2,"loss":2.4}\n'
    )
    assert [row["loss"] for row in read_metrics(path).train] == [3.0, 2.4]


def test_forest_needs_intervals(run: Run) -> None:
    assert forest_of(gains_of(find_arms(run), [])) is None
