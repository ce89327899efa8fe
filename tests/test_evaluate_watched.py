"""What is counted of prompts, refused, and given to vLLM: over stand-ins for the harness's class and vLLM."""

import json
import sys
import types
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from dusk.errors import CheckpointError, SettingError, WorkError
from evaluation_cases import write_models

CONTEXT = 160


class StandIn(TemplateLM):
    """Tokens are words; every answer has a log-likelihood of 0, but for the word `fault`."""

    eot_token_id, max_length, max_gen_toks = 0, CONTEXT, 8

    def __init__(self, **options: Any) -> None:
        super().__init__()
        if options.get("dtype") == "float64":
            raise ValueError("no such type")
        self.options = options

    def tok_encode(self, string: str, **_: Any) -> list[str]:
        return string.split()

    @staticmethod
    def modify_gen_kwargs(gen_kwargs: dict[str, Any]) -> dict[str, Any]:
        return gen_kwargs

    def _model_generate(self, requests: Any) -> None:
        if "fault" in str(requests):
            raise RuntimeError("the engine is gone")

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        self._model_generate(requests)
        for request in requests:
            self.cache_hook.add_partial("loglikelihood", request, None)
        return [(0.0, False)] * len(requests)

    def loglikelihood_rolling(self, requests: Any, **_: Any) -> list[float]:
        return [0.0] * len(requests)

    def generate_until(self, requests: Any, **_: Any) -> list[str]:
        return [""] * len(requests)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_models(tmp_path_factory.mktemp("models"))[0])


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`on("cuda")`: dusk's module where vLLM says that it runs on that."""

    def stand_in(name: str, **names: Any) -> None:
        module = types.ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)

    def imported(kind: str) -> Any:
        stand_in("lm_eval.models.vllm_causallms", VLLM=StandIn)
        stand_in("vllm.platforms", current_platform=types.SimpleNamespace(device_type=kind))
        stand_in("vllm.v1.engine.exceptions", EngineDeadError=type("EngineDeadError", (Exception,), {}))
        sys.modules.pop("dusk.evaluate.vllm_model", None)
        return import_module("dusk.evaluate.vllm_model")

    for package in ("vllm", "vllm.v1", "vllm.v1.engine"):
        stand_in(package)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    yield imported
    sys.modules.pop("dusk.evaluate.vllm_model", None)


HOW: dict[str, Any] = {"dtype": "auto", "batch_size": None, "add_bos_token": False}


def words(count: int) -> str:
    return " ".join(["word"] * count)


def request(document: int, *arguments: Any) -> Instance:
    return Instance("loglikelihood", {}, arguments, 0, metadata=("task", document, 1))


def test_vllm_gets_what_suits_the_device(folder: Path, on: Any):
    """On a CPU float32 and a cache of its own size; on a GPU the type that the checkpoint has."""
    cpu = on("cpu").load_vllm(folder, device="cpu", **HOW)
    shared = {"pretrained": str(folder), "add_bos_token": False, "batch_size": 1024, "max_model_len": -1}
    shared |= {"max_num_batched_tokens": 2048, "use_tqdm_on_load": False}
    assert cpu.options == shared | {
        "dtype": "float32",
        "enforce_eager": True,
        "kv_cache_memory_bytes": 4 * 2**30,
    }
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    gpu = on("cuda").load_vllm(folder, device="cuda", **HOW | {"batch_size": 8})
    assert gpu.options == shared | {"dtype": "bfloat16", "batch_size": 8}
    with pytest.raises(SettingError, match="device cuda:1: the vLLM that is installed runs on cuda"):
        on("cuda").load_vllm(folder, device="cuda:1", **HOW)


def test_vllm_is_greedy_unless_a_task_draws(on: Any):
    asked = on("cpu").VllmModel.modify_gen_kwargs
    assert asked({"until": ["."]}) == {"until": ["."], "do_sample": False}
    for told in ({"temperature": 0.7}, {"do_sample": True}):
        assert asked(told) == told


def test_vllm_s_faults_are_told(folder: Path, on: Any):
    with pytest.raises(CheckpointError, match="vLLM cannot load this model and its tokenizer: no such type"):
        on("cpu").load_vllm(folder, device="cpu", **HOW | {"dtype": "float64"})
    model = on("cpu").load_vllm(folder, device="cpu", **HOW)
    with pytest.raises(WorkError, match="vLLM stopped while it answered: the engine is gone"):
        model.loglikelihood([request(0, "this is a", " fault")])


def test_requests_are_told_and_cut_prompts_counted(folder: Path, on: Any):
    """vLLM takes in all tokens but one of the context's; generation has to fit behind the prompt."""
    model = on("cpu").load_vllm(folder, device="cpu", **HOW)
    told: list[int] = []
    model.on_request = lambda: told.append(1)
    model.loglikelihood([request(n, words(n), " an answer") for n in (CONTEXT - 3, CONTEXT - 2)])
    assert model.cut == {("task", CONTEXT - 2)}
    assert len(told) == 2
    model.cut = set()
    model.generate_until([request(n, words(n), {"max_gen_toks": 60}) for n in (100, 101)])
    assert model.cut == {("task", 101)}


def test_what_cannot_fit_is_refused(folder: Path, on: Any):
    model = on("cpu").load_vllm(folder, device="cpu", **HOW)
    with pytest.raises(SettingError, match="context is 160 tokens: an answer has 159"):
        model.loglikelihood([request(0, "a", f" {words(CONTEXT - 1)}")])
    with pytest.raises(SettingError, match="context is 160 tokens: 160 tokens are to be generated"):
        model.generate_until([request(0, "a", {"max_gen_toks": CONTEXT})])
