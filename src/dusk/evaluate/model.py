"""A model folder as a model of the harness's: loaded once, and computing what prompts share once."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from dusk import solar_pro
from dusk.checkpoint import open_checkpoint, require_fit
from dusk.errors import CheckpointError
from dusk.evaluate.branching import CPU_TOKENS, GPU_TOKENS, Branching, can_branch
from dusk.evaluate.prefix_tree import Scored
from dusk.evaluate.watched import WatchedModel

solar_pro.register()

_CPU_BATCH = 16  # a larger one gains nothing on a CPU and holds batch x length x vocabulary logits twice
_SMALL_GENERATION_BATCH = 256  # but a small model's text costs the same per step for many as for few
_SMALL_PARAMETERS = 50_000_000
_CONTEXTS = 32  # whose tokens are remembered: the choices of a question share theirs


class HarnessModel(WatchedModel, HFLM):  # type: ignore[misc]  # the harness is untyped
    """HFLM that computes shared prefixes once.

    Requests and answers are HFLM's own; where the model's cache cannot branch, so is the computation.
    """

    generation_batch_size: int | None = None
    rows: int | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._tokens = CPU_TOKENS if self.device.type == "cpu" else GPU_TOKENS
        self._encoded = lru_cache(_CONTEXTS)(super().tok_encode)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """As HFLM's, which pads each batch to its longest, with requests of one length side by side."""
        order = sorted(range(len(requests)), key=lambda index: -len(requests[index].args[0]))
        found: list[float] = [0.0] * len(requests)
        step = self.batch_size if isinstance(self.batch_size, int) else len(requests)
        for begin in range(0, len(order), step):
            chosen = order[begin : begin + step]
            logs = super().loglikelihood_rolling([requests[index] for index in chosen])
            for index, log in zip(chosen, logs, strict=True):
                found[index] = log
        return found

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """As HFLM's; what the choices of a question share, once."""
        wanted = self._adds_bos if add_special_tokens is None else add_special_tokens
        ids: list[int] = self._encoded(string, add_special_tokens=wanted, **kwargs)
        return ids

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """As HFLM's, with the batch size that suits generation."""
        with self._batches_of(self.generation_batch_size):
            return super().generate_until(requests)

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = True, **kwargs: Any) -> Any:
        """(log-likelihood, greedy) of each (strings, context ids, continuation ids), as HFLM computes them."""
        longest = self.scorable_tokens
        sequences = [
            Scored((context + continuation)[-longest:][:-1], continuation)
            for _, context, continuation in requests
        ]
        needed = max((len(sequence.inputs) for sequence in sequences), default=0)
        whole = all(continuation for _, _, continuation in requests)
        if self._adds_bos is not None or not whole or not can_branch(self.model, needed):
            return super()._loglikelihood_tokens(requests, **kwargs)
        self._watch(requests)
        branching = Branching(
            self.model,
            self.device,
            self._tokens,
            rows=self.rows,
            softmax_dtype=self.softmax_dtype,
            on_done=lambda number: self.cache_hook.add_partial("loglikelihood", requests[number][0], None),
        )
        answers = branching.score(sequences)
        self._tokens = branching.tokens  # as far as memory allowed
        return [(answer.log_likelihood, answer.greedy) for answer in answers]

    @contextmanager
    def _batches_of(self, size: int | None) -> Iterator[None]:
        before: int | str = self.batch_size
        self.batch_size_per_gpu = size or before
        try:
            yield
        finally:
            self.batch_size_per_gpu = before


def load_model(path: Path, *, device: str, dtype: str, batch_size: int | str | None) -> HarnessModel:
    """Load a local model folder for the harness.

    `dtype` "auto" is float32 on a CPU and the checkpoint's own elsewhere. `batch_size` bounds the sequences of a
    batch; with None they are as many as suit the device, fewer where memory runs out.

    Raises:
        CheckpointError: the folder is no whole model, transformers cannot load it, or its tokenizer names no EOS.
    """
    require_fit(open_checkpoint(path))
    wanted = "float32" if dtype == "auto" and device == "cpu" else dtype
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        model = (
            AutoModelForCausalLM.from_pretrained(path, dtype=wanted, local_files_only=True).to(device).eval()
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: transformers cannot load this model and its tokenizer: {error}",
            remedy="`dusk verify` says what is wrong with a model folder.",
        ) from error
    require_eos(path, tokenizer)
    size = batch_size if batch_size is not None else (_CPU_BATCH if device == "cpu" else "auto")
    loaded = HarnessModel(pretrained=model, tokenizer=tokenizer, batch_size=size)
    loaded.rows = batch_size if isinstance(batch_size, int) else None
    if batch_size is None and model.num_parameters() <= _SMALL_PARAMETERS:
        loaded.generation_batch_size = _SMALL_GENERATION_BATCH
    return loaded


def require_eos(path: Path, tokenizer: Any) -> None:
    """Raises CheckpointError where a tokenizer names no EOS token."""
    if tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"{path}: its tokenizer names no EOS token; answers end with it (texts without BOS begin so).",
            remedy="Name `eos_token` in its tokenizer_config.json.",
        )


def require_chat_template(path: Path) -> None:
    """Raises CheckpointError where a folder is no model, or its tokenizer cannot write conversations."""
    open_checkpoint(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: transformers cannot load its tokenizer: {error}") from error
    if not getattr(tokenizer, "chat_template", None):
        raise CheckpointError(
            f"{path}: its tokenizer has no chat template, so it cannot be talked to",
            remedy="`dusk sft` gives one to what it tunes; `dusk eval` asks base models without one.",
        )
