import contextlib
import importlib
import inspect
import io
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

import dusk as package
import fake_stages
import report_runs
from dusk.cli import main
from dusk.cli.commands import COMMANDS
from dusk.cli.main import dusk
from dusk.cli.terminal import Bar, RunDisplay, amount, duration, table
from dusk.errors import WorkError
from dusk.recipe import KINDS, StageEvent, parse_recipe

HEAVY = ("torch", "transformers", "numpy", "rich", "pydantic", "yaml", "jinja2", "lm_eval", "huggingface_hub")


def call(*args):
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    return ended.value.code


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["data", "--help"]])
def test_help_imports_nothing_heavy(args):
    heavy = HEAVY[:-1] if args[0] != "data" else ("torch", "transformers", "numpy", "jinja2", "lm_eval")
    code = (
        f"import sys\nfrom dusk.cli import main\ntry:\n    main({args})\nexcept SystemExit: pass\n"
        f"print('heavy:', [name for name in {heavy} if name in sys.modules])"
    )
    assert python(code).splitlines()[-1] == "heavy: []"


def test_importing_dusk_imports_nothing_heavy():
    code = f"import sys, dusk\nprint([name for name in {(*HEAVY, 'click')} if name in sys.modules])"
    assert python(code).strip() == "[]"


def test_the_front_door_gives_functions_where_rooms_have_their_names():
    code = "import dusk.scale, dusk\nassert callable(dusk.scale) and dusk.scale.__name__ == 'scale'\n"
    code += "import importlib\nroom = importlib.import_module('dusk.scale')\nprint(room.scale is dusk.scale)"
    assert python(code).strip() == "True"
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'scael'"):
        package.scael  # noqa: B018


def test_the_version_is_the_installed_ones(capsys):
    from importlib.metadata import version

    assert call("--version") == 0
    assert capsys.readouterr().out == f"dusk {version('dusk')}\n"


def commands():
    for name in COMMANDS:
        command = dusk.get_command(click.Context(dusk), name)
        if isinstance(command, click.Group):
            yield from ([name, inner] for inner in command.list_commands(click.Context(command)))
        else:
            yield [name]


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_help_is_readable_at_80_columns_and_has_an_example(words, capsys):
    assert call(*words, "--help") == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 80 for line in text.splitlines())
    assert f"dusk {' '.join(words)} " in f"{text.split('Example:')[1]} ".replace("\n", " ")


def test_no_arguments_show_the_help(capsys):
    assert call() == 0
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["scal"], "Did you mean 'scale'?"),
        (["scale", "a"], "BASE OUT needed, 1 given: a."),
        (["scale", "a", "b", "--drp", "2"], "Did you mean '--drop'?"),
        (["scale", "/nowhere/base", "out"], "/nowhere/base"),
        (["scale", "a", "b", "--drop", "2", "--to", "12"], "drop and to each say the size"),
        (["scale", "a", "b", "--drop", "-1"], "--drop: input should be greater than or equal to 0"),
        (["sft", "a", "b"], "Missing option '--data'"),
        (["pretrain", "b", "--data", "x"], "give either model or from_scratch"),
        (["eval", "--suite", "h6", "--out", "x"], "MODELS: list should have at least 1 item"),
        (["run", "/nowhere.yaml", "--out", "x"], "No such file"),
        (["report", "/nowhere"], "/nowhere"),
    ],
)
def test_wrong_input_exits_2_with_a_message(args, told, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert call(*args) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_all_faults_of_the_flags_at_once(capsys):
    args = ["--learning-rate", "fast", "--warmup", "2", "--tokens", "-5", "--schedule", "steep"]
    assert call("pretrain", "a", "b", "--data", "x", *args) == 2
    error = capsys.readouterr().err
    assert all(flag in error for flag in args[::2])


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (WorkError("the disk is full."), 1, "dusk: the disk is full.\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "/x/y"), 1, "dusk: /x/y: No space left on device.\n"),
        (ModuleNotFoundError("x", name="lm_eval.tasks"), 2, "Install dusk[eval]"),
        (ZeroDivisionError("by zero"), 1, "dusk: ZeroDivisionError: by zero\nThis is a fault of dusk."),
    ],
)
def test_what_ends_a_command(raised, status, told, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise raised

    monkeypatch.setattr("dusk.checkpoint.inspect_checkpoint", fail)
    assert call("inspect", "x") == status
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
    monkeypatch.setenv("DUSK_TRACEBACK", "1")
    assert call("inspect", "x") == status
    assert ("Traceback" in capsys.readouterr().err) == (status != 130)


def test_flags_take_several_values_in_a_row(monkeypatch, capsys):
    given = []
    monkeypatch.setattr("fake_stages.grow", lambda **kwargs: given.append(kwargs))
    from dusk.cli.settings import settings_command

    monkeypatch.setitem(KINDS, "grow", fake_stages.FAKES["grow"])
    command = settings_command("grow", words=("model", "out"), show=print)
    for args in (
        ["m", "o", "--data", "a", "b", "--lines", "2", "--data", "c"],
        ["--data", "a", "m", "--data", "b", "o", "--data", "c", "--lines", "2"],
    ):
        command.main(args, standalone_mode=False)
        assert given.pop() == {"model": "m", "out": "o", "data": ["a", "b", "c"], "lines": 2}


def test_scale_inspect_and_verify(model_folder, tmp_path, capsys):
    assert call("scale", model_folder("llama"), tmp_path / "deep", "--to", "12", "--json") == 0
    assert json.loads(capsys.readouterr().out)["layer_map"]["layers"] == 12
    assert call("inspect", tmp_path / "deep", "--json") == 0
    assert json.loads(capsys.readouterr().out)["layers"] == 12
    assert call("verify", tmp_path / "deep") == 0
    assert "whole" in capsys.readouterr().out
    assert call("scale", model_folder("llama"), tmp_path / "deep") == 2
    assert "exists" in capsys.readouterr().err
    assert call("scale", model_folder("llama"), tmp_path / "other", "--dry-run") == 0
    assert "8 -> 12" in capsys.readouterr().out
    assert not (tmp_path / "other").exists()


def test_a_broken_model_does_not_pass_verify(model_folder, copy_of, capsys):
    broken = copy_of(model_folder("llama"))
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    assert call("verify", broken) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.fixture
def recipe_file(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    for name, kind in fake_stages.FAKES.items():
        monkeypatch.setitem(KINDS, name, kind)
    stages = {"base": {"kind": "source"}, "one": {"kind": "grow", "model": "base"}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "stages": stages}, sort_keys=False))
    return path


def test_run_tells_a_line_a_stage_and_resumes(recipe_file, tmp_path, capsys):
    assert call("run", recipe_file, "--out", tmp_path / "run") == 0
    told = capsys.readouterr()
    assert [line.split()[:2] for line in told.err.splitlines()] == [["base", "done"], ["one", "done"]]
    assert told.out.startswith("2 stages, 0 of them kept, in ")
    assert told.out.endswith(f"Report: {tmp_path}/run/report.html\n")
    assert call("run", recipe_file, "--out", tmp_path / "run", "--json") == 0
    told = capsys.readouterr()
    assert [line.split() for line in told.err.splitlines()] == [["base", "kept"], ["one", "kept"]]
    assert json.loads(told.out)["stages"][1]["results"] == {"tokens": 3}


def test_a_failed_stage_gives_its_exit_code(recipe_file, tmp_path, capsys):
    content = yaml.safe_load(recipe_file.read_text())
    content["stages"]["bad"] = {"kind": "fail", "how": "dusk"}
    recipe_file.write_text(yaml.safe_dump(content, sort_keys=False))
    assert call("run", recipe_file, "--out", tmp_path / "run") == 2
    assert "dusk: stage 'bad': rows.jsonl:3: no text." in capsys.readouterr().err


@pytest.mark.parametrize("kind", list(KINDS.values()), ids=lambda kind: kind.name)
def test_settings_are_the_parameters_of_the_function(kind):
    module, name = kind.function.split(":")
    parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    known = set(parameters)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        from dataclasses import fields

        from dusk.train.settings import TrainSettings

        trained = {field.name for field in fields(TrainSettings)}
        assert trained <= set(kind.settings.model_fields)  # no setting without a flag and a key
        known |= trained
    assert "out" in parameters
    assert set(kind.settings.keywords()) <= known


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.26, "0.3 s"), (48.2, "48 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(312, "312"), (1250, "1.25k"), (40.1e6, "40.1M"), (0.5, "0.5")])
def test_amounts(number, text):
    assert amount(number) == text


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


def test_a_run_shows_a_bar_a_working_stage(terminal):
    with contextlib.redirect_stderr(terminal), RunDisplay() as display:
        for done in (0, 10, 20):
            display(
                StageEvent("one", "grow", "running", done=done, total=40, unit="tokens", values={"loss": 0.5})
            )
        display.bars.refresh()
        display(StageEvent("one", "grow", "done", seconds=61))
    assert "20/40 tokens" in terminal.getvalue()
    assert "loss 0.500" in terminal.getvalue()
    assert "one                  done in 1 min 1 s\n" in terminal.getvalue()


def test_a_bar_comes_after_two_seconds_and_not_before(terminal):
    with contextlib.redirect_stderr(terminal), Bar("scale", "bytes") as bar:
        bar(1, 100)
        assert terminal.getvalue() == ""
        bar.begin -= 2
        bar(50, 100)
        bar.bars.refresh()
    assert "50/100 bytes" in terminal.getvalue()


def test_what_is_piped_is_quiet(capsys):
    with Bar("scale", "bytes") as bar:
        bar.begin -= 9
        bar(50, 100)
    assert capsys.readouterr().err == ""
    table(["model", "Held-out bits/byte"], [["base", "1.2345"], ["scaled", "1.1"]])
    assert [line.split() for line in capsys.readouterr().out.splitlines()][1:] == [
        ["base", "1.2345"],
        ["scaled", "1.1"],
    ]


def test_the_report_of_seeds_prints_its_sentence_and_table(tmp_path, capsys):
    report_runs.write_seeds(tmp_path / "out")
    assert call("report", tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "Over 3 seeds the 12-layer scaled model passed its 8-layer base after 600k tokens"
    )
    rows = {line.split("  ")[0]: " ".join(line.split()) for line in lines}
    # 2.3001: the longer ones among the documents are a little harder
    assert rows["recovered"] == "recovered 0.2500 ± 0.0000 2.3001 ± 0.0050 0.4000 ± 0.0000 ≈ 0.1000 ± 0.0000"
    assert lines[-2].endswith("no difference from decayed within the noise.")
    assert lines[-1] == f"Report: {tmp_path}/out/report.html"
    assert call("report", tmp_path / "out", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["summary"]["bits_per_byte_saved"]["base_same_tokens"]["mean"] == pytest.approx(0.02)


def test_the_report_of_several_arms_prints_where_each_ends(tmp_path, capsys):
    for seed, offset in enumerate(report_runs.SEED_OFFSETS):
        stages = report_runs.arms_stages(offset)
        report_runs.write_run(tmp_path / f"seed-{seed}", stages, name="growth", seed=seed)
    assert call("report", tmp_path) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "faster 242,116 (3 of 3) 2.2900 ± 0.0100" in rows
    assert "new_only – 2.4100 ± 0.0000" in rows
    assert "scratch – 3.3000 ± 0.0050" in rows


def test_a_recipe_with_several_seeds(recipe_file, tmp_path, capsys):
    content = yaml.safe_load(recipe_file.read_text())
    content["stages"] = {"docs": {"kind": "source", "seed": 0}, **content["stages"]}
    recipe_file.write_text(yaml.safe_dump({**content, "seed": 5}, sort_keys=False))
    assert call("run", recipe_file, "--seeds", "2", "--out", tmp_path / "out", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [run["seed"] for run in told["runs"]] == told["summary"]["seeds"] == [5, 6]
    assert [run["stages"][0]["taken_from"] for run in told["runs"]] == [None, "seed-5"]
    assert call("run", recipe_file, "--seeds", "3", "--out", tmp_path / "out") == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split() for line in lines if "seed" in line] == [["seed", "5"], ["seed", "6"], ["seed", "7"]]
    assert [line.split()[1] for line in lines if line.startswith("one")] == ["kept", "kept", "done"]
    again = [
        "run",
        recipe_file,
        "--seeds",
        "2",
        "--out",
        tmp_path / "again",
        "--reuse",
        tmp_path / "out",
        "--json",
    ]
    assert call(*again) == 0
    told = json.loads(capsys.readouterr().out)
    assert [[stage["taken_from"] for stage in run["stages"]] for run in told["runs"]] == [
        ["seed-5"] * len(told["runs"][0]["stages"]),
        ["seed-5", *["seed-6"] * (len(told["runs"][0]["stages"]) - 1)],
    ]


def test_the_full_demo_makes_a_run_a_seed_and_their_report(recipe_file, tmp_path, monkeypatch, capsys):
    content = yaml.safe_load(recipe_file.read_text())
    content["stages"] = {"docs": {"kind": "source", "seed": 0}, **content["stages"]}

    def small(*, full, seed):
        assert full
        return parse_recipe(content, seed=seed)

    monkeypatch.setattr("dusk.recipe.demo_recipe", small)
    assert call("demo", "--full", "--seed", "3", "--out", tmp_path / "out", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [run["seed"] for run in told["runs"]] == told["summary"]["seeds"] == [3, 4, 5, 6, 7]
    assert told["summary"]["sentence"] == "These runs scale no model, so there is no recovery to report."
    assert told["report"] == f"{tmp_path}/out/report.html"
    assert (tmp_path / "out" / "seed-7" / "report.html").is_file()
    taken = [run["stages"][0]["taken_from"] for run in told["runs"]]
    assert taken == [None, *["seed-3"] * 4]
