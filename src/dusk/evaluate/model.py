"""A model folder as a model of the harness's: loaded once, quiet, and computing what prompts share once."""

from collections.abc import Callable, Iterator, Sequence
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

solar_pro.register()

_CPU_BATCH = 16  # a larger one gains nothing on a CPU and holds batch x length x vocabulary logits twice
_SMALL_GENERATION_BATCH = 256  # but a small model's text costs the same per step for many as for few
_SMALL_PARAMETERS = 50_000_000
_CONTEXTS = 32  # whose tokens are remembered: the choices of a question share theirs


class HarnessModel(HFLM):  # type: ignore[misc]  # the harness is untyped
    """HFLM that computes shared prefixes once, is quiet, and calls `on_request` after each request.

    Requests and answers are HFLM's own; where the model's cache cannot branch, so is the computation. Prompts
    that do not fit the context are cut from the left as there, and counted: `cut` names (task, document).

    Where the tokenizer puts BOS in front of a text, HFLM's rolling likelihood has it twice, as the prefix and
    as the first token to predict, which no model has learnt; here it is the prefix alone.
    """

    on_request: Callable[[], None] = staticmethod(lambda: None)
    generation_batch_size: int | None = None
    rows: int | None = None
    _adds_bos: bool | None = None
    _asked: Sequence[Any] = ()

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.cut: set[tuple[str, int]] = set()
        self._tokens = CPU_TOKENS if self.device.type == "cpu" else GPU_TOKENS
        self._encoded = lru_cache(_CONTEXTS)(super().tok_encode)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """As HFLM's, without a bar."""
        self._asked = requests
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        self._asked = ()
        return answers

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """As HFLM's, which pads each batch to its longest, with requests of one length side by side."""
        order = sorted(range(len(requests)), key=lambda index: -len(requests[index].args[0]))
        found: list[float] = [0.0] * len(requests)
        step = self.batch_size if isinstance(self.batch_size, int) else len(requests)
        self._adds_bos = False
        for begin in range(0, len(order), step):
            chosen = order[begin : begin + step]
            logs = super().loglikelihood_rolling([requests[index] for index in chosen], disable_tqdm=True)
            for index, log in zip(chosen, logs, strict=True):
                found[index] = log
        self._adds_bos = None
        return found

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """As HFLM's; without BOS while rolling."""
        wanted = self._adds_bos if add_special_tokens is None else add_special_tokens
        ids: list[int] = self._encoded(string, add_special_tokens=wanted, **kwargs)
        return ids

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """As HFLM's, with the batch size that suits generation."""
        for request in requests:
            room = self.max_length - request.args[1].get("max_gen_toks", self.max_gen_toks)
            if len(self.tok_encode(request.args[0])) > room:
                self._note_cut(request)
        with self._batches_of(self.generation_batch_size):
            texts: list[str] = super().generate_until(requests, disable_tqdm=True)
        return texts

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = True, **kwargs: Any) -> Any:
        """(log-likelihood, greedy) of each (strings, context ids, continuation ids), as HFLM computes them."""
        longest = self.max_length
        for asked, (_, context, continuation) in zip(self._asked, requests, strict=False):
            if len(context) + len(continuation) > longest + 1:
                self._note_cut(asked)
        fit = all(0 < len(continuation) <= longest for _, _, continuation in requests)
        sequences = [
            Scored((context + continuation)[-(longest + 1) :][:-1], continuation)
            for _, context, continuation in requests
        ]
        needed = max((len(sequence.inputs) for sequence in sequences), default=0)
        if self._adds_bos is not None or not fit or not can_branch(self.model, needed):
            return super()._loglikelihood_tokens(requests, disable_tqdm=True, **kwargs)
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

    def _note_cut(self, request: Any) -> None:
        self.cut.add((str(request.task_name), int(request.doc_id)))

    @contextmanager
    def _batches_of(self, size: int | None) -> Iterator[None]:
        before: int | str = self.batch_size
        self.batch_size_per_gpu = size or before
        try:
            yield
        finally:
            self.batch_size_per_gpu = before


class _RequestHook:
    """Stands where the harness's cache would: it is told of every finished request."""

    def __init__(self, model: HarnessModel) -> None:
        self.model = model

    def add_partial(self, kind: str, request: Any, answer: Any) -> None:
        """Count the request."""
        self.model.on_request()


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
    if tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"{path}: its tokenizer names no EOS token; answers end with it (texts without BOS begin so).",
            remedy="Name `eos_token` in its tokenizer_config.json.",
        )
    size = batch_size if batch_size is not None else (_CPU_BATCH if device == "cpu" else "auto")
    loaded = HarnessModel(pretrained=model, tokenizer=tokenizer, batch_size=size)
    loaded.rows = batch_size if isinstance(batch_size, int) else None
    if batch_size is None and model.num_parameters() <= _SMALL_PARAMETERS:
        loaded.generation_batch_size = _SMALL_GENERATION_BATCH
    loaded.set_cache_hook(_RequestHook(loaded))
    return loaded


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
