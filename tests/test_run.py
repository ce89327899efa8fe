import json
import os
import platform
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

import fake_stages
from dusk.errors import DataError, OutputError, SettingError, WorkError
from dusk.recipe import KINDS, parse_recipe, run
from dusk.recipe.machine import processor, typed_command

CHAIN = {
    "base": {"kind": "source", "text": "hello"},
    "docs": {"kind": "source", "text": "docs", "seconds": 0.05},
    "one": {"kind": "grow", "model": "base", "data": ["docs/text.txt"], "seconds": 0.4},
    "two": {"kind": "grow", "model": "base", "learning_rate": 1e-3, "seconds": 0.4},
    "both": {"kind": "grow", "model": "one", "data": ["two/text.txt"], "seconds": 0.4},
    "scores": {"kind": "score", "models": ["base", "one", "two", "both"]},
}


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    for name, kind in fake_stages.FAKES.items():
        monkeypatch.setitem(KINDS, name, kind)


def recipe(stages=CHAIN, **more):
    return parse_recipe({"name": "test", "stages": stages, **more})


def outputs(out):
    """Everything that stages made, without the times."""
    return {
        str(path.relative_to(out)): path.read_text()
        for path in sorted(out.glob("*/*"))
        if path.is_file() and path.name != "stage.json" and path.parent.name != "state"
    }


def times_done(out):
    return {path.name.removeprefix("done-"): path.stat().st_size for path in out.glob("state/done-*")}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        for name, kind in fake_stages.FAKES.items():
            patch.setitem(KINDS, name, kind)
        events = []
        report = run(recipe(), out, jobs=2, progress=events.append)
    return out, report, events


def test_every_stage_is_done_in_order(uninterrupted):
    out, report, events = uninterrupted
    assert [stage.status for stage in report.stages] == ["done"] * 6
    assert (out / "both" / "text.txt").read_text().splitlines()[0].startswith("hello ")
    assert report.evaluations() == [out / "scores" / "results.json"]
    ended = {event.stage: place for place, event in enumerate(events) if event.status == "done"}
    began = {
        event.stage: place for place, event in reversed([*enumerate(events)]) if event.status == "running"
    }
    for stage in report.stages:
        assert all(ended[used] < began[stage.name] for used in stage.uses)


def test_stages_tell_how_far_they_are(uninterrupted):
    _, _, events = uninterrupted
    told = [event for event in events if event.stage == "one" and event.done is not None]
    assert told[-1].total == 5
    assert told[-1].unit == "lines"
    assert told[-1].values == {"loss": 0.25}


def test_the_summary_holds_what_the_report_needs(uninterrupted):
    out, _, _ = uninterrupted
    summary = json.loads((out / "run.json").read_text())
    assert summary["name"] == "test"
    row = next(row for row in summary["stages"] if row["name"] == "one")
    assert row["uses"] == ["base", "docs"]
    assert row["status"] == "done"
    assert row["settings"]["data"] == ["docs/text.txt"]
    assert row["results"]["tokens"] == 3
    assert 2**20 < row["peak_memory_bytes"] < 2**30
    assert 0.4 <= row["seconds"] < 60
    assert yaml.safe_load((out / "recipe.yaml").read_text())["stages"]["two"]["learning_rate"] == 1e-3


def test_independent_stages_run_side_by_side(tmp_path):
    run(recipe({name: {"kind": "meet", "others": 1} for name in "ab"}), tmp_path / "two", jobs=2)
    assert [(tmp_path / "two" / name / "company").read_text() for name in "ab"] == ["2", "2"]
    run(recipe({name: {"kind": "meet", "others": 0} for name in "ab"}), tmp_path / "one", jobs=1)
    assert [(tmp_path / "one" / name / "company").read_text() for name in "ab"] == ["1", "1"]


def test_a_finished_run_is_kept(uninterrupted):
    out, _, _ = uninterrupted
    before = outputs(out), times_done(out)
    report = run(recipe(), out)
    assert all(stage.kept for stage in report.stages)
    assert (outputs(out), times_done(out)) == before


def test_a_changed_setting_does_again_what_it_touches(tmp_path):
    run(recipe(), tmp_path)
    changed = {**CHAIN, "two": {**CHAIN["two"], "lines": 5}}
    report = run(recipe(changed), tmp_path)
    assert [stage.name for stage in report.stages if not stage.kept] == ["two", "both", "scores"]
    assert times_done(tmp_path) == {"base": 1, "docs": 1, "one": 1, "two": 2, "both": 2}
    run(recipe(changed), tmp_path / "fresh")
    assert outputs(tmp_path / "fresh") == {
        name: text for name, text in outputs(tmp_path).items() if not name.startswith("fresh")
    }


def test_another_recipe_or_folder_is_refused(tmp_path):
    run(recipe({"base": CHAIN["base"]}), tmp_path / "out")
    with pytest.raises(SettingError, match="holds a run of the recipe 'test', not of 'other'"):
        run(parse_recipe({"name": "other", "stages": {"base": CHAIN["base"]}}), tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(SettingError, match="is no run folder"):
        run(recipe(), tmp_path / "mine")
    with pytest.raises(SettingError, match="is a file"):
        run(recipe(), tmp_path / "mine" / "thesis.tex")
    with pytest.raises(SettingError, match="jobs is 0"):
        run(recipe(), tmp_path / "out", jobs=0)


def test_a_failing_stage_brings_its_error_and_what_was_done_is_kept(tmp_path):
    stages = {**CHAIN, "bad": {"kind": "fail", "model": "base"}, "after": {"kind": "grow", "model": "both"}}
    with pytest.raises(DataError) as caught:
        run(recipe(stages), tmp_path, jobs=3)
    assert caught.value.message == "stage 'bad': rows.jsonl:3: no text."
    assert caught.value.problems == ["one", "two"]
    assert caught.value.remedy == "Mend it."
    status = {row["name"]: row["status"] for row in json.loads((tmp_path / "run.json").read_text())["stages"]}
    assert status["bad"] == "failed"
    assert status["after"] == "waiting"
    report = run(recipe(CHAIN), tmp_path)
    assert report.stage("base").kept


def test_a_stage_that_works_is_finished_when_another_fails(tmp_path):
    stages = {"slow": {"kind": "source", "seconds": 0.5}, "bad": {"kind": "fail"}}
    with pytest.raises(DataError):
        run(recipe(stages), tmp_path, jobs=2)
    assert (tmp_path / "slow" / "text.txt").is_file()


def test_errors_that_are_not_ours(tmp_path):
    with pytest.raises(WorkError, match=r"stage 'bad': ZeroDivisionError: by zero") as caught:
        run(recipe({"bad": {"kind": "fail", "how": "python"}}), tmp_path / "a")
    assert caught.value.exit_code == 1
    assert "Traceback" in (tmp_path / "a" / "state" / "log" / "bad.log").read_text()
    with pytest.raises(
        WorkError, match=r"its process ended \(killed by SIGKILL; was there enough memory\?\)"
    ):
        run(recipe({"bad": {"kind": "fail", "how": "kill"}}), tmp_path / "b")


def test_a_file_that_a_stage_did_not_make(tmp_path):
    stages = {**CHAIN, "one": {**CHAIN["one"], "data": ["docs/txt"]}}
    with pytest.raises(DataError.__base__, match=r"stage 'one': 'docs/txt': .* it made text.txt"):
        run(recipe(stages), tmp_path)


def test_two_runs_of_one_folder(tmp_path):
    first = threading.Thread(target=run, args=(recipe({"a": {"kind": "source", "seconds": 3}}), tmp_path))
    first.start()
    time.sleep(0.5)
    with pytest.raises(OutputError, match=f"another `dusk run` .process {os.getpid()}. works here"):
        run(recipe({"a": {"kind": "source", "seconds": 3}}), tmp_path)
    first.join()


def test_threads_stay_those_that_the_run_began_with(tmp_path):
    assert run(recipe({"base": CHAIN["base"]}, threads=3), tmp_path).threads == 3
    assert run(recipe({"base": CHAIN["base"]}), tmp_path, jobs=1).threads == 3


def test_stages_that_need_torch_are_forked_from_a_process_that_has_it(tmp_path):
    events = []
    stages = {"torch": {"kind": "preloaded"}, "base": CHAIN["base"], "again": {"kind": "preloaded"}}
    report = run(recipe(stages, threads=2), tmp_path, jobs=2, progress=events.append)
    assert next(event.stage for event in events if event.status == "done") == "base"
    assert (tmp_path / "torch" / "threads").read_text() == "2 2 2"
    assert report.stage("base").peak_memory_bytes < 100 * 2**20 < report.stage("torch").peak_memory_bytes


def start(tmp_path, stages=CHAIN):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "test", "stages": stages}, sort_keys=False))
    call = [sys.executable, fake_stages.__file__, str(path), str(tmp_path / "out")]
    with (tmp_path / "stderr").open("w") as said:
        return subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=said)


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(n, marks=pytest.mark.soak) for n in range(3, 15))]
)
def test_killed_at_random_moments_and_resumed(tmp_path, uninterrupted, seed):
    moments = random.Random(seed)
    kills = 0
    for _ in range(40):
        process = start(tmp_path)
        try:
            assert process.wait(timeout=moments.uniform(0.2, 0.9)) == 0, (tmp_path / "stderr").read_text()
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    else:
        assert start(tmp_path).wait() == 0
    assert kills > 0
    assert outputs(tmp_path / "out") == outputs(uninterrupted[0])


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stages_end_with_the_run(tmp_path, how):
    process = start(tmp_path, {"a": {"kind": "fail", "how": "orphan"}})
    told = tmp_path / "out" / "state"
    deadline = time.monotonic() + 60
    while not list(told.glob("pids")) and time.monotonic() < deadline:
        time.sleep(0.02)
    pids = (told / "pids").read_text().split()
    assert all(alive(pid) for pid in pids)
    process.send_signal(how)
    process.wait(timeout=60)
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(alive(pid) for pid in pids)
    if how == signal.SIGTERM:
        assert process.returncode == 75


SEEDED = {
    "docs": {"kind": "source", "text": "docs"},
    "own": {"kind": "grow", "model": "docs", "data": ["other/text.txt"]},
}


def seeded(seed):
    other = {"other": {"kind": "source", "text": "other", "seed": seed}}
    docs = {**SEEDED["docs"], "seed": 0}
    return recipe({"docs": docs, **other, "own": SEEDED["own"]}, seed=seed)


def test_what_another_run_has_made_alike_is_copied(tmp_path):
    first, second = tmp_path / "seed-1", tmp_path / "seed-2"
    run(seeded(1), first)
    report = run(seeded(2), second, reuse=[tmp_path / "seed-9", first, second])
    assert report.stage("docs").taken_from == "seed-1"
    assert report.stage("docs").kept
    assert report.stage("other").taken_from is None
    assert "docs" not in times_done(second)
    assert (second / "docs" / "text.txt").read_text() == "docs 0\n"
    assert outputs(second) == {**outputs(first), **outputs(second)} != outputs(first)
    rows = json.loads((second / "run.json").read_text())["stages"]
    assert [row.get("taken_from") for row in rows] == ["seed-1", None, None]
    # a copy is the run's own from then on, and an uncopied run gives the same
    again = run(seeded(2), second)
    assert [stage.kept for stage in again.stages] == [True] * 3
    assert again.stage("docs").taken_from == "seed-1"
    run(seeded(2), tmp_path / "alone")
    assert outputs(tmp_path / "alone") == outputs(second)


def test_a_copy_that_was_killed_is_made_again(tmp_path):
    run(seeded(1), tmp_path / "a")
    fingerprint = json.loads((tmp_path / "a" / "docs" / "stage.json").read_text())["fingerprint"]
    half = tmp_path / "b" / "state" / fingerprint[:16] / "docs.copy"
    half.mkdir(parents=True)
    (half / "text.txt").write_text("do")
    assert run(seeded(2), tmp_path / "b", reuse=[tmp_path / "a"]).stage("docs").taken_from == "a"
    assert (tmp_path / "b" / "docs" / "text.txt").read_text() == "docs 0\n"


def test_a_stage_of_other_settings_is_not_copied(tmp_path):
    run(recipe({"base": {"kind": "source", "text": "one"}}), tmp_path / "a")
    run(recipe({"base": {"kind": "source", "text": "two"}}), tmp_path / "b", reuse=[tmp_path / "a"])
    assert (tmp_path / "b" / "base" / "text.txt").read_text().startswith("two")


def test_run_json_tells_machine_beginning_and_command(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/dusk", "run", "my recipe.yaml", "--out", "x"])
    before = datetime.now(UTC).replace(microsecond=0)
    run(recipe({"base": CHAIN["base"]}), tmp_path / "a")
    told = json.loads((tmp_path / "a" / "run.json").read_text())
    assert told["command"] == "dusk run 'my recipe.yaml' --out x"
    assert before <= datetime.fromisoformat(told["started"]) <= datetime.now(UTC)
    assert told["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert told["machine"]["python"] == platform.python_version()
    meminfo = Path("/proc/meminfo").read_text().split()
    assert told["machine"]["memory_bytes"] == pytest.approx(1024 * int(meminfo[1]), rel=0.02)
    # a library that calls again leaves what it was begun with
    monkeypatch.setattr(sys, "argv", ["train.py"])
    run(recipe({"base": CHAIN["base"]}), tmp_path / "a")
    assert json.loads((tmp_path / "a" / "run.json").read_text())["command"] == told["command"]
    assert json.loads((tmp_path / "a" / "run.json").read_text())["started"] == told["started"]


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["/venv/bin/dusk", "demo"], "dusk demo"),
        (["/lib/dusk/__main__.py", "demo", "--out", "a b"], "dusk demo --out 'a b'"),
        (["/lib/pytest/__main__.py", "-q"], None),
        ([""], None),
    ],
)
def test_the_command_as_typed(arguments, command):
    assert typed_command(arguments) == command


def test_the_processor_by_its_name(tmp_path):
    facts = tmp_path / "cpuinfo"
    facts.write_text(
        "processor\t: 0\nmodel name\t: Xeon: the 2nd @ 2 GHz\nprocessor\t: 1\nmodel name\t: other\n"
    )
    assert processor(facts) == "Xeon: the 2nd @ 2 GHz"
    assert processor(tmp_path / "none") == (platform.processor() or platform.machine())
