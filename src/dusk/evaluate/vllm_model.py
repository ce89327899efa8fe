"""A model folder as the harness's vLLM model, on vLLM's GPU or its CPU build."""

import os
from pathlib import Path
from typing import Any

from lm_eval.models.vllm_causallms import VLLM
from pydantic import ValidationError
from transformers import AutoTokenizer
from vllm.platforms import current_platform
from vllm.v1.engine.exceptions import EngineDeadError

from dusk.checkpoint import open_checkpoint, require_fit
from dusk.errors import CheckpointError, SettingError, WorkError
from dusk.evaluate.model import require_eos
from dusk.evaluate.watched import WatchedModel

_REQUESTS = 1024  # handed over at a time; vLLM batches them by itself
_STEP_TOKENS = 2048  # vLLM makes all logits of a prompt's step beside the memory that it has set aside
_CPU_CACHE_BYTES = 4 * 2**30  # vLLM would take 0.92 of all memory, and fail where so much is not free


class VllmModel(WatchedModel, VLLM):  # type: ignore[misc]  # the harness is untyped
    """VLLM with what a run asks of a model; its context is as long as memory for the cache allows."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_model_len=-1, **options)
        self._max_length = None  # the length that the engine came to, not the -1 that asked it to

    @property
    def device(self) -> str:
        """Where it runs, for messages."""
        return str(current_platform.device_type)

    @property
    def scorable_tokens(self) -> int:
        """Two fewer than transformers scores: vLLM takes in the last token, too, and makes one more."""
        return int(self.max_length) - 1

    @staticmethod
    def modify_gen_kwargs(gen_kwargs: dict[str, Any], *args: Any, **options: Any) -> Any:
        """As the harness's; greedy where a task says nothing, which the harness leaves to vLLM: it would draw."""
        told = "temperature" in gen_kwargs or "do_sample" in gen_kwargs
        return VLLM.modify_gen_kwargs(
            gen_kwargs if told else gen_kwargs | {"do_sample": False}, *args, **options
        )

    def _model_generate(self, *args: Any, **options: Any) -> Any:
        try:
            return super()._model_generate(*args, **options)
        except (RuntimeError, EngineDeadError) as error:
            raise WorkError(
                f"vLLM stopped while it answered: {error}",
                remedy="Leave --backend out, or see vLLM's log above.",
            ) from error

    def release(self) -> None:
        """End the engine, which keeps its memory otherwise."""
        self.model.llm_engine.engine_core.shutdown()


def load_vllm(
    path: Path, *, device: str, dtype: str, batch_size: int | str | None, add_bos_token: bool | None
) -> VllmModel:
    """Load a local model folder with vLLM.

    `dtype` "auto" is float32 on a CPU and the checkpoint's own elsewhere (vLLM's own "auto" halves float32).

    Raises:
        SettingError: vLLM was not built for the device.
        CheckpointError: the folder is no whole model, vLLM cannot load it, or its tokenizer names no EOS.
    """
    _require_device(device)
    checkpoint = open_checkpoint(path)
    require_fit(checkpoint)
    stored = checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype") or "auto"
    wanted = ("float32" if device == "cpu" else stored) if dtype == "auto" else dtype
    try:
        require_eos(path, AutoTokenizer.from_pretrained(path, local_files_only=True))
        return VllmModel(
            pretrained=str(path),
            dtype=wanted,
            batch_size=batch_size if isinstance(batch_size, int) else _REQUESTS,
            add_bos_token=add_bos_token,
            max_num_batched_tokens=_STEP_TOKENS,
            use_tqdm_on_load=False,
            **_options(device),
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: vLLM cannot load this model and its tokenizer: {_reason(error)}",
            remedy="Leave --backend out, or see what vLLM supports.",
        ) from error


def _reason(error: Exception) -> str:
    """What is wrong, without pydantic's frame around it."""
    if isinstance(error, ValidationError):
        return "; ".join(each["msg"] for each in error.errors())
    return str(error)


def _require_device(device: str) -> None:
    kind = str(current_platform.device_type)
    if device != kind:
        raise SettingError(
            f"device {device}: the vLLM that is installed runs on {kind or 'no device of this machine'}",
            remedy="Leave --device out; CUDA_VISIBLE_DEVICES chooses among GPUs.",
        )


def _options(device: str) -> dict[str, Any]:
    """On a CPU the engine is in this process: that starts faster, tells its own errors, and compiles nothing."""
    if device == "cpu":
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        return {"enforce_eager": True, "kv_cache_memory_bytes": _CPU_CACHE_BYTES}
    # a fork cannot use a GPU once torch has been asked whether there is one
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    return {}
