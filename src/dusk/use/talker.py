"""A model that answers: loaded once, prompts in its own template, text as it is made."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, TextStreamer
from transformers.utils import logging

from dusk import solar_pro
from dusk.checkpoint import open_checkpoint, require_fit
from dusk.checkpoint.device import choose_device
from dusk.errors import CheckpointError, DataError
from dusk.scale import load_scaled
from dusk.use.conversation import Message, fitting
from dusk.use.sampling import Sampling

logging.disable_progress_bar()
solar_pro.register()

_UNKNOWN_CONTEXT = 4096  # of a config that states none


@dataclass(frozen=True)
class Answer:
    """`ended` says what ended it: the model's own end of text, `max_tokens`, or the end of the context.

    `forgotten` are the messages at the beginning that had no room in the context.
    """

    text: str
    tokens: int
    seconds: float
    ended: Literal["eos", "length", "context"]
    forgotten: int = 0


class Talker:
    """A model folder or hub id as something to talk to; `layers` makes it the scaled model, in memory.

    `dtype` "auto" is float32 on a CPU and the checkpoint's own elsewhere.

    Raises:
        InputError: no model, no tokenizer, a map that it cannot have, or a device that is not here.
    """

    def __init__(
        self, model: str | Path, *, layers: str | None = None, device: str | None = None, dtype: str = "auto"
    ) -> None:
        checkpoint = open_checkpoint(model)
        require_fit(checkpoint)
        place = choose_device(device)
        loading = {
            "dtype": "float32" if dtype == "auto" and place == "cpu" else dtype,
            "local_files_only": True,
        }
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
            if layers is None:
                loaded = AutoModelForCausalLM.from_pretrained(checkpoint.path, **loading)
            else:
                loaded = load_scaled(checkpoint.path, layers, **loading)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"{checkpoint.path}: transformers cannot load this model and its tokenizer: {error}",
                remedy="`dusk verify` says what is wrong with a model folder.",
            ) from error
        self._model: Any = loaded.to(place).eval()
        self.model = str(model)
        self.name = f"{model} {layers}" if layers else self.model
        self.has_template = bool(getattr(self._tokenizer, "chat_template", None))

    def answer(
        self,
        messages: Sequence[Message],
        sampling: Sampling | None = None,
        show: Callable[[str], None] = lambda text: None,
    ) -> Answer:
        """The answer to the last message, given to `show` in pieces as it is made.

        A model without a chat template continues the last message's text. Where the conversation does not
        fit the context, its oldest turns are left out.

        Raises:
            DataError: the last message alone leaves no room for an answer, or the template refuses it.
        """
        chosen = sampling or Sampling()
        context = _context(self._model)
        kept = fitting(messages, self._length, context - min(chosen.max_tokens, context // 2))
        ids = self._encoded(kept)
        room = context - len(ids)
        if room < 1:
            raise DataError(
                f"{self.name}: the message has {len(ids):,} tokens, and the model's context is {context:,}",
                remedy="Shorten it.",
            )
        begin = time.perf_counter()
        made = self._generated(ids, chosen, min(room, chosen.max_tokens), show)
        stopped = bool(made) and made[-1] in self._stops()
        return Answer(
            text=self._tokenizer.decode(made, skip_special_tokens=True),
            tokens=len(made),
            seconds=time.perf_counter() - begin,
            ended="eos" if stopped else "context" if room < chosen.max_tokens else "length",
            forgotten=len(messages) - len(kept),
        )

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text that the answer is to follow.

        Raises:
            DataError: the chat template refuses these messages.
        """
        if not self.has_template:
            return messages[-1]["content"]
        try:
            text: str = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # whatever a template raises by itself, or jinja for it
            raise DataError(
                f"{self.name}: its chat template refuses this conversation: {error}",
                remedy="Some have no place for a system message: leave --system out.",
            ) from error
        return text

    def _encoded(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's ids, with BOS in front where the tokenizer puts it and the template does not."""
        text = self.prompt(messages)
        bos = self._tokenizer.bos_token
        special = not (bos and text.startswith(bos))
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special, verbose=False)
        return ids

    def _length(self, messages: Sequence[Message]) -> int:
        return len(self._encoded(messages))

    def _stops(self) -> set[int]:
        """The ids that end an answer: those of the generation settings, and the tokenizer's EOS."""
        named = self._model.generation_config.eos_token_id
        ids = named if isinstance(named, list) else [named]
        return {int(found) for found in (*ids, self._tokenizer.eos_token_id) if found is not None}

    @torch.inference_mode()
    def _generated(
        self, ids: Sequence[int], sampling: Sampling, longest: int, show: Callable[[str], None]
    ) -> list[int]:
        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        stops = sorted(self._stops())
        how: dict[str, Any] = {"do_sample": False}
        if not sampling.greedy:
            how = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": 0,
            }
        settings = GenerationConfig(
            max_new_tokens=longest, eos_token_id=stops, pad_token_id=self._padding(stops), **how
        )
        prompt = torch.tensor([list(ids)], device=self._model.device)  # (1, T)
        made = self._model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            generation_config=settings,
            streamer=_Pieces(self._tokenizer, show),
        )
        return [int(token) for token in made[0, len(ids) :]]

    def _padding(self, stops: Sequence[int]) -> int:
        pad = self._tokenizer.pad_token_id
        return int(pad) if pad is not None else next(iter(stops), 0)


class _Pieces(TextStreamer):  # type: ignore[misc]  # transformers is untyped
    """Gives the answer's text on, in pieces of whole words."""

    def __init__(self, tokenizer: Any, show: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._show = show

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """One piece."""
        if text:
            self._show(text)


def _context(model: Any) -> int:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or _UNKNOWN_CONTEXT
