"""The arithmetic and the tables of `make bench`; the benches themselves run by that verb alone."""

import json
import math
import sys

import pytest
from bench import training, training_gpu
from bench.__main__ import BENCHES, main, parser
from bench.checkpoints import MERGEKIT_VARIABLE, mergekit_absent, mergekit_command, plain_copies
from bench.measure import Run, in_turn, measured
from bench.random_model import shapes, write_random_model
from bench.table import Goal, Table, Way, aligned, at_least, at_most, figure, paired_ratio

MIB = 2**20


@pytest.fixture
def table():
    slow = [Run(4.0, 3.0, 10 * MIB), Run(9.0, 1.0, 30 * MIB), Run(6.0, 2.0, 20 * MIB)]
    fast = [Run(2.0, 0.5, 5 * MIB), Run(3.0, 0.25, 5 * MIB), Run(1.5, 0.125, 5 * MIB)]
    ways = (
        Way.timed("slow", ["a b", "c"], slow),
        Way.timed("fast", ["d"], fast),
        Way("absent", "e", missing="not here"),
    )
    return Table("Title", "seconds", "fast", ways, megabytes=12.0, notes=("A note.",))


def test_a_way_keeps_every_round_the_largest_peak_and_the_median_of_processor_time(table):
    assert table.way("slow") == Way("slow", "'a b' c", (4.0, 9.0, 6.0), 30 * MIB, 2.0)
    assert table.middle("slow") == 6.0
    assert table.peak_mib("slow") == 30
    assert table.middle("absent") is table.peak_mib("absent") is None
    with pytest.raises(KeyError):
        table.way("other")


def test_ratios_are_of_the_same_round(table):
    # rounds: 4/2, 9/3, 6/1.5; medians alone would give 6/2 = 3 here too, so a case where they differ follows
    assert table.ratio("slow") == 3.0
    assert table.ratio("fast") == 1.0
    assert table.ratio("absent") is None
    assert table.speed_up("fast", "slow") == 3.0
    assert table.speed_up("fast", "absent") is table.speed_up("fast", "never heard of") is None
    assert paired_ratio([10, 1, 4], [1, 10, 2]) == 2.0  # medians: 4 / 2; of the rounds: 10, 0.1, 2
    assert paired_ratio([8, 2, 3], [1, 4, 2]) == 1.5  # medians: 3 / 2
    assert paired_ratio([8, 9, 1], [1, 3, 4]) == 3.0  # medians: 8 / 3
    with pytest.raises(ValueError, match="zip"):
        paired_ratio([1, 2], [1])


def test_the_table_as_it_is_printed(table):
    assert str(table).splitlines() == [
        "## Title",
        "",
        "| way    |      seconds |  min |  max | ratio to fast | MB/s | CPU s | peak MiB |",
        "| ------ | -----------: | ---: | ---: | ------------: | ---: | ----: | -------: |",
        "| slow   |         6.00 | 4.00 | 9.00 |          3.00 |    2 |  2.00 |       30 |",
        "| fast   |         2.00 | 1.50 | 3.00 |          1.00 |    6 | 0.250 |        5 |",
        "| absent | not measured |      |      |               |      |       |          |",
        "",
        "- slow: `'a b' c`",
        "- fast: `d`",
        "- absent: `e` (not here)",
        "- A note.",
    ]


def test_the_table_as_json(table):
    told = json.loads(json.dumps(table.to_json()))
    assert [way["median"] for way in told["ways"]] == [6.0, 2.0, None]
    assert [way["ratio"] for way in told["ways"]] == [3.0, 1.0, None]
    assert told["ways"][0]["values"] == [4.0, 9.0, 6.0]


@pytest.mark.parametrize(
    ("goal", "told"),
    [
        (at_most("under 1 s", 0.5, 1), "goal: under 1 s: 0.500, met"),
        (at_most("under 1 s", 1.5, 1), "goal: under 1 s: 1.50, NOT met"),
        (at_least("twice", 2.0, 2), "goal: twice: 2.00, met"),
        (at_least("twice", 1.9, 2), "goal: twice: 1.90, NOT met"),
        (at_least("twice", None, 2), "goal: twice: not measured"),
    ],
)
def test_goals(goal: Goal, told):
    assert str(goal) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [(0, "0"), (0.01234, "0.0123"), (0.5, "0.500"), (3.14159, "3.14"), (31.4, "31.4"), (12345.6, "12,346")],
)
def test_figures_have_three_digits(value, told):
    assert figure(value) == told


def test_columns_are_of_one_width():
    assert aligned([["a", "b"], ["long", "1"]]) == ["| a    |   b |", "| ---- | --: |", "| long |   1 |"]


def test_every_way_has_its_turn_in_each_round():
    order: list[str] = []

    def way(name):
        def run():
            order.append(name)
            return Run(float(len(order)), 0.0, 0)

        return run

    runs = in_turn({name: way(name) for name in "abc"}, 2)
    assert "".join(order) == "abc" + "bca" + "cab"
    assert [run.seconds for run in runs["a"]] == [6.0, 8.0]  # the warm-up is not kept


def test_a_child_is_measured(tmp_path):
    code = "import time; block = b'x' * (200 << 20); time.sleep(0.2)"
    run = measured([sys.executable, "-c", code], tmp_path / "log")
    assert run.seconds >= 0.2
    assert run.peak_bytes >= 200 * MIB
    assert 0 < run.processor_seconds < run.seconds + 0.1


def test_a_child_that_fails_tells_why(tmp_path):
    with pytest.raises(RuntimeError, match=r"ended with 3:\nno good"):
        measured([sys.executable, "-c", "print('no good'); raise SystemExit(3)"], tmp_path / "log")


def test_the_random_checkpoint_is_one(tmp_path):
    from dusk.checkpoint import verify

    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
        "tie_word_embeddings": False,
    }
    write_random_model(config, tmp_path / "model", 0)
    report = verify(tmp_path / "model")
    assert report.problems == ()
    layer = 2 * 64 + 3 * 64 * 96 + 2 * 64 * 64 + 2 * 64 * 32
    assert sum(map(math.prod, shapes(config).values())) == 2 * layer + 64 + 2 * 128 * 64


def test_the_copies_beside(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"x" * 1000)
    for command in plain_copies(source, target).values():
        measured(command, tmp_path / "log")
        assert target.read_bytes() == source.read_bytes()
        target.unlink()


def test_mergekit_is_run_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.delenv(MERGEKIT_VARIABLE, raising=False)
    assert mergekit_command(tmp_path / "c.yaml", tmp_path / "out") is None
    monkeypatch.setenv(MERGEKIT_VARIABLE, str(tmp_path))
    assert mergekit_command(tmp_path / "c.yaml", tmp_path / "out") is None
    (tmp_path / "mergekit-yaml").touch()
    command = mergekit_command(tmp_path / "c.yaml", tmp_path / "out")
    assert command is not None
    assert command[:3] == [str(tmp_path / "mergekit-yaml"), str(tmp_path / "c.yaml"), str(tmp_path / "out")]
    assert MERGEKIT_VARIABLE in mergekit_absent().command
    assert mergekit_absent().values == ()


def test_the_runner_prints_and_writes_what_it_ran(tmp_path, monkeypatch, capsys, table):
    class Fine:
        NAME = "start-up"

        @staticmethod
        def bench(work, rounds):
            assert rounds == 2
            assert list(work.iterdir()) == []
            return [table]

    class Broken(Fine):
        @staticmethod
        def bench(work, rounds):
            raise RuntimeError("no disk")

    monkeypatch.setitem(BENCHES, "start-up", Fine)
    monkeypatch.setitem(BENCHES, "merge", Broken)
    asked = ["--work", str(tmp_path / "w"), "--rounds", "2", "--only", "start-up", "--only", "merge"]
    assert main([*asked, "--json", str(tmp_path / "told.json")]) == 1
    shown = capsys.readouterr()
    assert "## Title" in shown.out
    assert "processor: " in shown.out
    assert shown.err == "merge failed: no disk\n"
    told = json.loads((tmp_path / "told.json").read_text())
    assert [one["title"] for one in told["tables"]] == ["Title"]
    assert told["failed"] == ["merge"]
    assert "torch" in told["machine"]["versions"]
    assert list((tmp_path / "w").iterdir()) == []


@pytest.mark.parametrize("wrong", [["--only", "speed"], ["--rounds", "0"], ["--rounds", "x"]])
def test_wrong_flags_are_refused(wrong, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main([*wrong, "--work", str(tmp_path)])
    assert ended.value.code == 2
    assert parser().parse_args([]).rounds == 5


def test_training_is_told_by_the_clock_and_by_processor_time(tmp_path, monkeypatch):
    losses = {"dusk-bf16": [3.0, 2.0], "loop-bf16": [3.0, 2.0 + 1e-6], "trl-1-bf16": [3.0, 2.0005]}
    speeds = {"dusk-bf16": 4.0, "trl-wrapped-4-bf16": 2.0, "trl-4-bf16": 0.5}

    def child(command, log):
        task, way = command[-3:-1]
        if task != "prepare":
            speed = speeds.get(way, 1.0)
            figures = {
                "items": [100.0, 300.0, 100.0],
                "seconds": [100 / speed, 300 / speed, 900.0],  # the last step: another's work
                "processor_seconds": [50 / speed, 150 / speed, 50 / speed],
                "losses": losses.get(way, [9.0]),
            }
            (tmp_path / f"{task}-{way}.result.json").write_text(json.dumps(figures))
        return Run(1.0, 1.0, (7 if way.startswith("dusk") else 8) * MIB)

    monkeypatch.setattr(training, "measured", child)
    clock, processor, _, tuning, _, pairs = training.bench(tmp_path, 3)
    assert clock.way("dusk-bf16").values == (4.0,) * 3  # the median step
    assert processor.way("dusk-bf16").values == (8.0,) * 3
    assert processor.peak_mib("dusk-bf16") == 7
    assert clock.goals == ()
    assert [goal.found for goal in processor.goals] == [4.0, 2.0, 7 / 8]
    assert "(trl-wrapped-4-bf16)" in processor.goals[1].text
    assert [goal.found for goal in tuning.goals] == [4.0, 7 / 8]
    assert [goal.found for goal in pairs.goals] == [4.0, 7 / 8]
    assert "are equal (1e-05)" in processor.notes[-1]
    assert "are equal (0.001)" in pairs.notes[-1]
    losses["loop-bf16"][1] = 2.001
    assert "DIFFER" in list(training.bench(tmp_path, 1))[1].notes[-1]


@pytest.mark.filterwarnings("ignore")  # of TRL
def test_the_bench_for_a_gpu_runs_at_a_tiny_size(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = (
        training_gpu.SIZES["10.7b"].config | sizes | {"num_hidden_layers": 4, "max_position_embeddings": 64}
    )
    for name, drop in (("1.5b", 1), ("10.7b", 1)):
        work = tmp_path / name
        work.mkdir()
        real = training_gpu.SIZES[name]
        size = training_gpu.Size(config, drop, 64, 128, real.passes, real.steps, real.settings)
        training_gpu.prepare(size, work)
        for way in ("dusk", "trl")[: len(training_gpu.WAYS[name]) // 2]:
            found = training_gpu.figures(size, way, work)
            assert found["tokens_per_second"] > 0
            assert found["peak_bytes"] > 0


@pytest.mark.skipif(training_gpu._has_gpu(), reason="there is a GPU")
def test_without_a_gpu_the_bench_says_so(tmp_path):
    told = "\n".join(str(table) for table in training_gpu.bench(tmp_path, 1))
    assert told.count("(no CUDA device)") == 6
    assert told.count("not measured") == 6 + 4
