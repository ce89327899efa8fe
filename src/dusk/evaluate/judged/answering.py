"""A local model that answers conversations, in its tokenizer's chat template, greedily."""

from collections.abc import Sequence
from pathlib import Path

from lm_eval.api.instance import Instance

from dusk.checkpoint.device import choose_device
from dusk.evaluate.digest import model_digest
from dusk.evaluate.harness import quiet
from dusk.evaluate.judged.judge import Message
from dusk.evaluate.model import load_model, require_chat_template


class LocalAnswerer:
    """Answers of at most `max_tokens` tokens.

    Raises:
        CheckpointError: the folder is no model, or its tokenizer has no chat template.
    """

    def __init__(
        self, name: str, folder: Path, *, max_tokens: int, device: str | None = None, dtype: str = "auto"
    ) -> None:
        self.name, self.max_tokens = name, max_tokens
        self.digest = f"{model_digest(folder)}-{max_tokens}"
        require_chat_template(folder)
        with quiet(offline=True):
            self._model = load_model(folder, device=choose_device(device), dtype=dtype, batch_size=None)

    def answer(self, conversations: Sequence[Sequence[Message]]) -> list[str]:
        """An answer to the last message of each."""
        options = {"until": [], "max_gen_toks": self.max_tokens, "do_sample": False}
        requests = [
            Instance(
                request_type="generate_until",
                doc={},
                arguments=(self._model.apply_chat_template(list(conversation)), options),
                idx=0,
                metadata=("judged", number, 1),
            )
            for number, conversation in enumerate(conversations)
        ]
        with quiet(offline=True):
            return [text.strip() for text in self._model.generate_until(requests)]
