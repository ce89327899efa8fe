"""Comparing maps: against the scaled model itself, hand formulas, and known cases."""

import json
import math
import shutil
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from conftest import VARIANTS, save_random_model
from dusk import LayerMap, load_scaled, pretrain, scale, scan
from dusk.checkpoint import open_checkpoint
from dusk.cli.main import dusk
from dusk.data.packing import TokenDocument, build_store
from dusk.data.tokenizer import save_tokenizer, train_tokenizer
from dusk.errors import CheckpointError, DataError, LayerMapError, SettingError
from dusk.report.scan import heat_map, render_scan, write_scan_page
from dusk.scan.candidates import IN_PLACE, OWN, REPEATED_BLOCK, TWO_COPIES, candidates, depths_between
from dusk.scan.certainty import rank, require_enough
from dusk.scan.comparison import compare, predicted_tokens
from dusk.scan.layerwise import layerwise
from dusk.scan.measuring import SweepPlan
from dusk.scan.similarity import similarity, unexplained
from dusk.train.heldout import document_nats
from train_models import VOCABULARY, text, write_rows


def test_candidates_are_all_maps_of_the_depth_with_the_papers_first():
    found = candidates(8, 12)
    assert (found[0].spec, found[0].papers, found[0].family) == ("0-5,2-7", True, TWO_COPIES)
    assert [c.papers for c in found].count(True) == 1
    assert {len(c.layer_map) for c in found} == {12}
    assert len({c.layer_map for c in found}) == len(found)
    specs = {family: {c.spec for c in found if c.family == family} for family in (TWO_COPIES, IN_PLACE)}
    assert specs[TWO_COPIES] == {"0-7,4-7", "0-6,3-7", "0-5,2-7", "0-4,1-7", "0-3,0-7"}
    assert "0-1,1-3,3-5,5-7,7" in specs[IN_PLACE]  # every second layer
    assert "0,0-1,1-2,2-3,3-7" in specs[IN_PLACE]  # the first four, one behind the other
    repeated = {c.spec for c in found if c.family == REPEATED_BLOCK}
    assert {"0-3,2-3,2-7", "0-2,2,2,2,2-7"} <= repeated
    assert not any(
        c.layer_map in [d.layer_map for d in found if d.family == TWO_COPIES]
        for c in found
        if c.family == REPEATED_BLOCK
    )


def test_a_map_of_ones_own_joins_and_keeps_its_family_only_where_it_is_new():
    found = candidates(4, 6, ["0-2,1-3", "3,2,1,0-2"])
    asked = {c.spec: c.family for c in found if c.asked}
    assert asked == {"0-2,1-3": TWO_COPIES, "3,2,1,0-2": OWN}


def test_maps_of_another_depth_are_not_ranked():
    with pytest.raises(LayerMapError) as told:
        candidates(8, 12, ["0-7", "0-5,2-7", "0-7,0-7"])
    assert told.value.problems == ["`0-7` has 8 layers", "`0-7,0-7` has 16 layers"]
    with pytest.raises(LayerMapError, match="cannot make 17 layers"):
        candidates(8, 17)


def test_other_depths_are_spread_over_what_two_copies_reach():
    assert depths_between(8, 12, 4) == (9, 11, 13, 16)
    assert depths_between(8, 12, 0) == ()
    assert depths_between(2, 3, 9) == (4,)
    with pytest.raises(SettingError, match="at least 0"):
        depths_between(8, 12, -1)


def test_the_best_eight_at_the_papers_size_share_most_of_their_layers():
    """n = 32, s = 48: the base's own pass has gone every prefix; each map runs only its second copy."""
    maps = [LayerMap.asymmetric(32, 16 - first, first) for first in range(4, 12)]
    plan = SweepPlan.of(maps)
    assert plan.layers_alone == 8 * 48
    assert plan.layers_run == sum(32 - first for first in range(4, 12)) == 196
    assert plan.sharing > 1.7
    screened = candidates(32, 48)
    assert sum(len(c.layer_map) for c in screened) > 8 * 32  # and screening takes 32


def test_a_path_that_two_maps_share_behind_the_seam_is_run_once():
    maps = [LayerMap.of([0, 1, 1, 2], 3), LayerMap.of([0, 1, 1, 1], 3), LayerMap.of([0, 1, 2], 3)]
    plan = SweepPlan.of(maps)
    assert plan.layers_run == 3  # the second 1, then 2 or 1; the base itself costs nothing
    fresh = LayerMap.parse("0,1,1i,2", 3)
    assert SweepPlan.of([fresh]).layers_run == 0


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """`base(variant)`: a folder with four random layers, a tokenizer and held-out text beside it."""
    rows = [{"text": text(3 + i % 30, i)} for i in range(90)]
    tokenizer = train_tokenizer([row["text"] for row in rows], VOCABULARY)
    made = {}

    def make(variant="llama"):
        if variant not in made:
            folder = tmp_path_factory.mktemp(variant) / "base"
            config = {**VARIANTS[variant], "num_hidden_layers": 4, "vocab_size": VOCABULARY, "shard": "20KB"}
            save_random_model(folder, **config)
            save_tokenizer(tokenizer, folder, context=128)
            write_rows(folder.parent / "text.jsonl", rows)
            made[variant] = folder
        return made[variant]

    return make


def store_of(tokenizer_folder, documents=30):
    random = np.random.default_rng(0)
    return build_store(
        [
            TokenDocument(
                ids := [1, *random.integers(3, VOCABULARY, 2 + i % 25).tolist()], [True] * len(ids), 9
            )
            for i in range(documents)
        ]
    )


@pytest.mark.parametrize("from_disk", [False, True])
@pytest.mark.parametrize("variant", ["llama", "mistral", "qwen2", "qwen3"])
def test_losses_are_those_of_the_scaled_models(base, variant, from_disk):
    folder, store = base(variant), store_of(variant)
    maps = candidates(4, 6, ["3,0-1,1i,1,0", "2,2,2,0,1,3"])
    with layerwise(open_checkpoint(folder), from_disk=from_disk) as model:
        found = compare(model, store, maps, [LayerMap.depthwise(4, 0)], measured=len(maps))
    assert {len(c.layer_map) for c in found.measured} == {6}
    assert len(found.nats) == len(maps) + 1
    for layer_map, nats in found.nats.items():
        expected = document_nats(load_scaled(folder, layer_map, dtype=torch.float32), store)
        np.testing.assert_allclose(nats, expected, rtol=1e-5, atol=1e-4)
    plain = document_nats(load_scaled(folder, "0-3", dtype=torch.float32), store)
    np.testing.assert_allclose(found.base_nats, plain, rtol=1e-5, atol=1e-4)
    assert found.plan.sharing > 1.2


def test_predicted_tokens_leave_out_the_first_of_each_document():
    store = build_store(
        [TokenDocument([1, 2, 3], [True] * 3), TokenDocument([1, 2, 3, 4], [False, False, True, True])]
    )
    assert predicted_tokens(store).tolist() == [2, 2]


def states(depths, tokens, size, seed=0):
    return torch.randn(depths, tokens, size, generator=torch.Generator().manual_seed(seed))


def test_cosines_angles_and_norms_by_hand():
    h = states(4, 50, 6)
    found = similarity([[part[None] for part in depth.split([20, 30])] for depth in h])
    for i in range(4):
        assert found.norms[i] == pytest.approx(float(h[i].norm(dim=1).mean()), rel=1e-5)
        for j in range(4):
            cosine = torch.nn.functional.cosine_similarity(h[i], h[j], dim=1)
            assert found.cosine[i, j] == pytest.approx(float(cosine.mean()), abs=1e-5)
            angle = float(torch.arccos(cosine.clamp(-1, 1)).mean() / math.pi) if i != j else 0.0
            assert found.angular[i, j] == pytest.approx(angle, abs=1e-5)
    assert found.block_influence == pytest.approx(1 - np.diagonal(found.cosine, offset=1))


def test_drift_by_hand():
    """In front of the second 1 of the map 0, 1, 1, 2 the states are h_2; at the end h_3 + (h_2 - h_1)."""
    h = states(4, 40, 8)
    found = similarity([[depth[None]] for depth in h])

    def angle(first, second):
        cosine = torch.nn.functional.cosine_similarity(first, second, dim=1)
        return float(torch.arccos(cosine.clamp(-1, 1)).mean() / math.pi)

    behind = h[2] + (h[2] - h[1])
    expected = angle(h[2], h[1]) + angle(behind, h[2]) + angle(behind + h[3] - h[2], h[3])
    assert found.drift(LayerMap.of([0, 1, 1, 2], 3)) == pytest.approx(expected, abs=1e-5)
    assert found.seam_angle(LayerMap.of([0, 1, 1, 2], 3)) == pytest.approx(angle(h[2], h[1]), abs=1e-5)
    assert found.drift(LayerMap.of([0, 1, 2], 3)) == pytest.approx(0, abs=1e-5)
    assert found.drift(LayerMap.parse("0,1,1i,2", 3)) == pytest.approx(0, abs=1e-5)


def test_a_linear_fit_explains_what_is_linear():
    first = states(1, 4000, 8)[0]
    rotated = first @ torch.linalg.qr(states(1, 8, 8, 1)[0])[0] * 3 + 5
    half_noise = first + first.std() * states(1, 4000, 8, 2)[0]
    left = unexplained(torch.stack([first, rotated, half_noise]))
    assert left[0, 1] < 1e-3
    assert left[0, 2] == pytest.approx(0.5, abs=0.03)
    assert left[1, 2] == pytest.approx(0.5, abs=0.03)
    assert np.diagonal(left).max() < 1e-3
    assert unexplained(states(2, 60, 8)) is None  # 30 tokens cannot fit 8 dimensions soundly


def test_ranking_says_how_sure_it_is():
    rng = np.random.default_rng(1)
    tokens = rng.integers(5, 50, 60)
    base_nats = tokens * 2.0
    noise = [rng.normal(0, 0.02, 60) * tokens for _ in range(3)]
    nats = [base_nats + tokens * damage + noise[i] for i, damage in enumerate([0.3, 0.1, 0.5])]
    found = rank(nats, base_nats, tokens)
    assert found.order == (1, 0, 2)
    assert found.best.tolist() == [0, 1, 0]
    assert found.lead == pytest.approx((nats[0] - nats[1]).sum() / tokens.sum())
    assert found.lead_low < found.lead < found.lead_high
    assert found.lead_low > 0
    assert found.tokens_needed is None
    damage = (nats[1] - base_nats) / tokens
    assert found.error[1] == pytest.approx(damage.std() / math.sqrt(60), rel=0.35)


def test_ranking_of_what_cannot_be_told_apart():
    rng = np.random.default_rng(2)
    tokens = np.full(40, 20)
    nats = [40 + rng.normal(0, 1, 40) for _ in range(2)]
    found = rank(nats, np.full(40, 38.0), tokens)
    assert found.lead_low <= 0 <= found.lead_high
    assert 0.5 < found.best[found.order[0]] < 1
    half_width = (found.lead_high - found.lead_low) / 2
    assert found.tokens_needed == pytest.approx(800 * (half_width / found.lead) ** 2, rel=1e-3)
    alone = rank(nats[:1], np.full(40, 38.0), tokens)
    assert (alone.order, alone.best.tolist(), alone.lead, alone.tokens_needed) == ((0,), [1.0], 0, None)


def test_short_text_is_refused_with_what_is_needed():
    require_enough(20, 2000)
    with pytest.raises(DataError) as told:
        require_enough(19, 1999)
    assert told.value.problems == [
        "it has 19 documents, and 20 are the least",
        "it has 1,999 tokens to predict, and 2,000 are the least",
    ]


@pytest.fixture(scope="module")
def scanned(base, tmp_path_factory):
    folder = base("mistral")
    out = tmp_path_factory.mktemp("scan") / "out"
    told = []
    report = scan(
        folder,
        out,
        text=folder.parent / "text.jsonl",
        to=6,
        layers=["3,2,1,0-2"],
        measured=3,
        progress=lambda *values: told.append(values),
    )
    return report, told


def test_a_scan_writes_its_result_and_no_model(scanned):
    report, told = scanned
    assert [file.name for file in report.out.iterdir()] == ["scan.json"]
    result = json.loads((report.out / "scan.json").read_text())
    assert report.to_json() == {"out": str(report.out), **result}
    maps = result["maps"]
    measured = [row for row in maps if "damage" in row]
    assert {"0-2,1-3", "3,2,1,0-2"} <= {row["spec"] for row in measured}  # the paper's, and one's own
    assert 3 <= len(measured) <= 5
    assert [row["damage"] for row in measured] == sorted(row["damage"] for row in measured)
    assert sum(row["best"] for row in measured) == pytest.approx(1, abs=1e-3)
    assert result["recommendation"]["spec"] == measured[0]["spec"]
    rest = [row["drift"] for row in maps if "damage" not in row]
    assert rest == sorted(rest)
    sizes = {size["layers"]: size for size in result["sizes"]}
    assert set(sizes) == {4, 5, 6, 7, 8}
    assert sizes[4]["damage"] == 0
    assert sizes[6]["damage"] == next(row["damage"] for row in measured if row["papers"])
    assert (
        sizes[8]["parameters"] - sizes[7]["parameters"] == sizes[5]["parameters"] - sizes[4]["parameters"] > 0
    )
    assert {unit for _, _, unit in told} == {"screening", "measuring"}
    assert all(done <= total for done, total, _ in told)


def test_probes_halve_what_is_left_and_leave_no_model(base, tmp_path):
    folder = base("mistral")
    text_file = folder.parent / "text.jsonl"
    report = scan(
        folder, tmp_path / "out", text=text_file, to=6, sizes=0, probe_data=text_file, probe_tokens=600,
        probe_settings={"learning_rate": 1e-3, "batch_tokens": 300, "precision": "fp32"},
    )  # fmt: skip
    rounds = report.result["probes"]
    assert [tried["tokens"] for tried in rounds] == [600, 1200]
    assert [[row["kept"] for row in tried["maps"]] for tried in rounds] == [
        [True, True, False, False],
        [True, False],
    ]
    best = [row["spec"] for row in report.result["maps"][:4]]
    assert {row["spec"] for row in rounds[0]["maps"]} == set(best)
    for tried in rounds:
        losses = [row["loss"] for row in tried["maps"]]
        assert losses == sorted(losses)
    assert {row["spec"] for row in rounds[1]["maps"]} == {
        row["spec"] for row in rounds[0]["maps"] if row["kept"]
    }
    told = report.result["recommendation"]
    assert told["after_training"] == rounds[1]["maps"][0]["spec"]
    assert "After 1,200 tokens of training" in told["words"]
    assert "After short trainings" in render_scan(report.result)
    assert [file.name for file in report.out.iterdir()] == ["scan.json"]

    # the first round again by hand
    spec = rounds[0]["maps"][0]["spec"]
    scale(folder, tmp_path / "scaled", layers=spec)
    settings = {
        "learning_rate": 1e-3,
        "batch_tokens": 300,
        "precision": "fp32",
        "schedule": "constant",
        "seed": 0,
    }
    trained = pretrain(
        tmp_path / "scaled", tmp_path / "trained", data=text_file, eval_data=text_file, tokens=600, **settings
    )
    assert rounds[0]["maps"][0]["loss"] == pytest.approx(trained.results["heldout"]["loss"], abs=1e-5)


def test_the_page_shows_every_map_and_the_seam(scanned):
    report, _ = scanned
    page = write_scan_page(report.out)
    assert page == report.out / "scan.html"
    text = page.read_text()
    assert all(f"<code>{row['spec']}</code>" in text for row in report.result["maps"])
    heat = heat_map(report.result)
    assert len(heat.cells) == 25
    assert len(heat.marks) == len(report.result["maps"][0]["seams"])
    assert max(cell.share for cell in heat.cells) == 1
    hostile = {**report.result, "base": {"name": "<script>", "layers": 4}}
    assert "<script>:" not in render_scan(hostile)
    (report.out / "scan.html").unlink()


def test_a_folder_without_a_scan_has_no_page(tmp_path):
    with pytest.raises(DataError, match=r"scan\.json is no scan"):
        write_scan_page(tmp_path)
    (tmp_path / "scan.json").write_text("{}")
    with pytest.raises(DataError, match=r"scan\.json is no scan"):
        write_scan_page(tmp_path)


def test_the_command_prints_a_table_and_a_reason(base, tmp_path):
    folder = base("llama")
    call = [
        "scan",
        str(folder),
        str(tmp_path / "s"),
        "--params",
        "60k",
        "--text",
        str(folder.parent / "text.jsonl"),
    ]
    done = CliRunner().invoke(dusk, [*call, "--sizes", "0", "--measured", "2"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "(the paper's)" in done.output
    assert "does the least damage of the" in done.output
    assert (tmp_path / "s" / "scan.html").is_file()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, SettingError, "`to` and `params`"),
        ({"to": 6, "params": "1M"}, SettingError, "`to` and `params`"),
        ({"to": 9}, LayerMapError, "cannot make 9 layers"),
        ({"to": 4}, LayerMapError, "cannot make 4 layers"),
        ({"params": "1B"}, SettingError, "parameters, not 1,000,000,000"),
        ({"to": 6, "probe_tokens": 100}, SettingError, "`probe_data` and `probe_tokens` go together"),
        ({"to": 6, "measured": 0}, SettingError, "`measured` is 0"),
        ({"to": 6, "layers": ["0-3"]}, LayerMapError, "maps of one depth"),
        ({"to": 6, "tokens": 300}, DataError, "too short"),
    ],
)
def test_what_cannot_be_scanned(base, tmp_path, settings, error, message):
    folder = base("llama")
    with pytest.raises(error, match=message):
        scan(folder, tmp_path / "out", text=folder.parent / "text.jsonl", **settings)
    assert not list(tmp_path.iterdir())


def test_a_text_that_is_too_short_is_told_before_the_model_is_loaded(base, tmp_path, monkeypatch):
    folder = base("llama")
    monkeypatch.setattr(sys.modules["dusk.scan.run"], "layerwise", None)  # nothing to call
    with pytest.raises(DataError, match="too short"):
        scan(folder, tmp_path / "out", text=folder.parent / "text.jsonl", to=6, tokens=300)


def test_a_model_that_cannot_be_run_layer_by_layer_is_refused(base, tmp_path):
    config = {"model_type": "gemma2", "num_hidden_layers": 4, "head_dim": 8, "vocab_size": VOCABULARY}
    folder = save_random_model(tmp_path / "base", **config)
    for file in base("llama").glob("tokenizer*"):
        shutil.copy(file, folder)
    with pytest.raises(CheckpointError, match="Gemma2ForCausalLM cannot be trained"):
        scan(folder, tmp_path / "out", text=base("llama").parent / "text.jsonl", to=6)
