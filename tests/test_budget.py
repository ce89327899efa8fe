"""Budgets: held against measured memory, against transformers' parameters and the trainer's own operations."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from dusk.budget import Shape, Work, cost, inference, known_gpus, memory, parse_machine, read_shape
from dusk.budget.cost import flops_per_token, passes
from dusk.budget.plan import budget
from dusk.cli.main import dusk
from dusk.cli.terminal import sentences
from dusk.errors import CheckpointError, RecipeError, SettingError
from train_models import kept_environment

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "solar-10.7b.yaml"
MISTRAL = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
}
SOLAR = Shape.of(MISTRAL).deeper(48)


@pytest.fixture
def mistral(tmp_path: Path) -> Path:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(MISTRAL))
    return file


def work(**more: Any) -> Work:
    given: dict[str, Any] = {"tokens": 10**12, "batch_tokens": 1 << 22, "micro_batch_tokens": 8192}
    return Work(SOLAR, **{**given, "sequence_length": 4096, "gradient_checkpointing": True, **more})


def test_memory_is_within_ten_percent_of_what_a_run_takes():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peaks are reset through /proc")
    done = subprocess.run(
        [sys.executable, "-m", "bench.training_memory"],
        env=kept_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 7
    assert {case["said"] // 10**7 for case in found} != {found[0]["said"] // 10**7}
    for case in found:
        assert case["said"] == pytest.approx(case["measured"], rel=0.1), case


@pytest.mark.parametrize("variant", ["llama", "mistral", "qwen3"])
def test_parameters_are_those_of_the_model(variant: str, model_folder: Callable[..., Path]):
    from dusk import inspect

    folder = model_folder(variant)
    norms = 2 * 8 * 4 if variant == "qwen3" else 0  # it norms queries and keys, which the shape leaves out
    assert read_shape(folder).parameters == inspect(folder).parameters - norms


def test_the_papers_sizes():
    assert Shape.of(MISTRAL).parameters == 7_241_732_096  # the published checkpoint's
    assert SOLAR.parameters == 10_731_524_096


def test_operations_are_those_that_the_trainer_counts(model_folder: Callable[..., Path]):
    from transformers import AutoModelForCausalLM

    from dusk.data.packing import TokenDocument, build_store
    from dusk.train.flops import unit_flops

    folder = model_folder("llama")
    length = 64
    store = build_store([TokenDocument(list(range(length)), [True] * length) for _ in range(4)])
    counted = float(unit_flops(AutoModelForCausalLM.from_pretrained(folder), store).sum())
    shape = read_shape(folder)
    said = flops_per_token(Work(shape, None, 128, 128, length)) * 4 * length
    head = 6 * shape.vocabulary * shape.hidden * 4  # the first token of a document is not predicted
    assert said - head == pytest.approx(counted, rel=1e-9)


class TestCosts:
    def test_a_trillion_tokens_by_hand(self):
        made = cost(work(), parse_machine("64xH100"), mfu=0.4)
        layer = 2 * 4096 * (4096 + 1024) + 3 * 4096 * 14336
        per_token = 6 * (48 * layer + 32000 * 4096) + 6 * 48 * 4096 * 4096
        assert made.flops_per_token == per_token
        rate = 64 * 989e12 * 0.4 * 0.75 / per_token
        assert made.tokens_per_second == pytest.approx(rate)
        assert made.gpu_hours == pytest.approx(1e12 / rate / 3600 * 64)
        assert made.kwh == pytest.approx(made.gpu_hours * 0.7 * 1.8 * 1.2)
        assert made.co2_kg == pytest.approx(made.kwh * 0.445)
        assert not made.communication_bound

    def test_more_gpus_share_the_states_and_each_passes_as_much(self):
        one, eight = (memory(work(), ranks) for ranks in (1, 8))
        assert eight.states == one.states // 8 == 12 * SOLAR.parameters // 8
        assert eight.activations == one.activations
        assert one.gathered == 0
        assert passes(work(), 8) == 64

    def test_full_tuning_does_not_fit_one_gpu_of_80_gb_and_fits_eight(self):
        assert not cost(work(), parse_machine("1xH100")).fits
        assert cost(work(), parse_machine("8xH100")).fits

    def test_in_bf16_full_tuning_fits_one_gpu_and_updates_in_the_backward_pass_one_of_80_gb(self):
        small = work(batch_tokens=4096, micro_batch_tokens=4096)
        light = replace(small, optimizer="adamw-bf16", weights="bf16")
        at_once = replace(light, update_in_backward=True)
        assert memory(light, 1).states == 6 * SOLAR.parameters
        assert memory(light, 1).gradients == 2 * SOLAR.parameters
        assert memory(at_once, 1).gradients == 2 * 4096 * 32000
        fits = [
            [cost(one, parse_machine(machine)).fits for machine in ("1xH100", "1xH200")]
            for one in (small, light, at_once)
        ]
        assert fits == [[False, False], [False, True], [True, True]]

    def test_short_passes_between_machines_are_bound_by_communication(self):
        short = work(batch_tokens=32 * 1024, sequence_length=1024)
        assert cost(short, parse_machine("32xH100")).communication_bound
        long = work(micro_batch_tokens=16_384)  # the two meet near 8,400 tokens a pass
        assert not cost(long, parse_machine("32xH100")).communication_bound

    def test_preferences_cost_a_third_more_and_checkpointing_a_third_of_the_time(self):
        machine = parse_machine("8xH200")
        plain = cost(work(gradient_checkpointing=False), machine)
        pairs = cost(work(gradient_checkpointing=False, reference_pass=True), machine)
        assert pairs.flops_per_token == pytest.approx(plain.flops_per_token * 4 / 3)
        assert plain.tokens_per_second == pytest.approx(cost(work(), machine).tokens_per_second * 4 / 3)

    def test_the_scaled_model_at_work(self):
        base, scaled = (inference(shape, parse_machine("H100")) for shape in (Shape.of(MISTRAL), SOLAR))
        assert scaled.weight_bytes == 2 * 10_731_524_096
        assert scaled.cache_bytes_per_token == 2 * 2 * 48 * 1024
        assert base.tokens_per_second > scaled.tokens_per_second
        assert scaled.room_tokens == (76 * 10**9 - scaled.weight_bytes) // scaled.cache_bytes_per_token
        assert [inference(SOLAR.deeper(n), parse_machine("H100")).fits for n in (48, 200)] == [True, False]


class TestRecipes:
    def test_the_full_recipe(self, mistral: Path):
        made = budget(RECIPE, parse_machine("32xH100"), configs={"mistral": mistral})
        sizes = {stage.name: stage.parameters for stage in made.stages}
        assert sizes["mistral"] == 7_241_732_096
        assert {sizes[name] for name in ("scaled", "solar", "sft_v3_v4", "candidate_2", "merge_v4")} == {
            10_731_524_096
        }
        solar = next(stage for stage in made.stages if stage.name == "solar")
        assert solar.tokens == 200 * 10**9
        assert solar.cost is not None
        assert solar.cost.fits
        assert made.total("gpu_hours") == solar.cost.gpu_hours  # the others' tokens nobody says

    def test_the_command(self, mistral: Path):
        words = ["budget", str(RECIPE), "--gpus", "8xH200", "--config", f"mistral={mistral}"]
        shown = CliRunner().invoke(dusk, words)
        assert shown.exit_code == 0, shown.output
        assert "10.7B" in shown.output
        assert "kg CO2" in shown.output
        told = json.loads(CliRunner().invoke(dusk, [*words, "--json", "--mfu", "0.5"]).output)
        assert told["inputs"]["mfu"] == 0.5
        assert told["totals"]["gpu_hours"] > 1000

    def test_solar_pro_fits_one_gpu_of_80_gb(self, tmp_path: Path):
        sizes = {
            "hidden_size": 5120,
            "intermediate_size": 17920,
            "num_hidden_layers": 40,
            "vocab_size": 32064,
        }
        heads = {"num_attention_heads": 40, "num_key_value_heads": 10, "max_position_embeddings": 4096}
        (tmp_path / "phi.json").write_text(json.dumps({"model_type": "phi3", **sizes, **heads}))
        recipe, config = ROOT / "recipes/solar-pro.yaml", f"phi={tmp_path / 'phi.json'}"
        words = ["budget", str(recipe), "--gpus", "8xH100", "--config", config]
        told = json.loads(CliRunner().invoke(dusk, [*words, "--json"]).output)
        assert {stage["parameters"] for stage in told["stages"] if stage["kind"] == "scale"} == {
            22_140_032_000
        }
        assert told["scaled"]["weight_bytes"] == 44_280_064_000
        assert told["scaled"]["room_tokens"] > 4096
        shown = CliRunner().invoke(dusk, words).output
        assert "Serving the scaled in bf16: 44.3 GB" in shown
        assert "fits one H100 of 80 GB" in shown
        assert "g CO2 a kWh" in shown

    def test_what_takes_less_than_full_training_is_said(self, mistral: Path, tmp_path: Path):
        text = RECIPE.read_text().replace("    epochs: 1\n", "    epochs: 1\n    optimizer: muon\n")
        (tmp_path / "muon.yaml").write_text(text)
        words = ["budget", str(tmp_path / "muon.yaml"), "--gpus", "8xH200", "--config", f"mistral={mistral}"]
        shown = CliRunner().invoke(dusk, words)
        assert "which takes more: candidate_1, candidate_2." in shown.output

    def test_a_model_that_is_not_here_is_named_with_the_remedy(self):
        with pytest.raises(RecipeError, match="--config mistral="):
            budget(RECIPE, parse_machine("8xH100"))

    def test_a_config_that_is_none(self, tmp_path: Path):
        (tmp_path / "config.json").write_text('{"hidden_size": 8}')
        with pytest.raises(CheckpointError, match="num_attention_heads"):
            read_shape(tmp_path)


def test_sentences_are_broken_between_words_in_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", "20")
    for terminal, shown in (
        (True, "one two three four\nfive six\n"),
        (False, "one two three four five six\n"),
    ):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        sentences("one two three four five six")
        assert capsys.readouterr().out == shown


@pytest.mark.parametrize("text", ["8xG1", "0xH100", "", "H100x8", "-1xH100"])
def test_machines_that_are_none(text: str):
    with pytest.raises(SettingError, match="8xH100"):
        parse_machine(text)


def test_the_machines_have_sources_and_sense():
    for gpu in known_gpus().values():
        assert gpu.source
        assert 10 < gpu.memory_gb < 400
        operations_a_byte = gpu.peak_tflops / gpu.memory_tb_s
        assert 100 < operations_a_byte < 450  # an L40S has 362 TFLOP/s at 864 GB/s, by its data sheet
    assert np.isclose(known_gpus()["H100"].peak_tflops, 989)
    assert parse_machine("32xh100").nodes == 4
