"""A causal model as the tests need it: losses of texts, and continuations drawn from it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from dusk.evaluate.digest import model_digest
from dusk.evaluate.model import load_model

_BATCH_TOKENS = 8192
TOP_K = 50
"""What `generate(do_sample=True)` sampled from when the published tool was written."""


class Language:
    """A model and its tokenizer; texts longer than its context are cut at their end."""

    def __init__(self, path: Path, *, device: str, dtype: str) -> None:
        loaded = load_model(path, device=device, dtype=dtype, batch_size=None)
        self.model, self.tokenizer, self.device = loaded.model, loaded.tokenizer, device
        self.longest = int(loaded.max_length)
        self.digest = model_digest(path)

    @torch.inference_mode()
    def log_probabilities(self, texts: Sequence[str]) -> list[npt.NDArray[np.float64]]:
        """Of each text the log-probability of each token after the first, (tokens - 1,)."""
        ids = [self.tokenizer(text)["input_ids"][: self.longest] for text in texts]
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        found: list[npt.NDArray[np.float64]] = [np.empty(0)] * len(ids)
        while order:
            rows = max(1, _BATCH_TOKENS // max(1, len(ids[order[-1]])))
            chosen, order = order[-rows:], order[:-rows]
            width = len(ids[chosen[-1]])
            padded = torch.tensor([ids[place] + [0] * (width - len(ids[place])) for place in chosen])
            mask = torch.tensor([[1] * len(ids[p]) + [0] * (width - len(ids[p])) for p in chosen])
            padded = padded.to(self.device)
            logits = self.model(input_ids=padded, attention_mask=mask.to(self.device)).logits[:, :-1].float()
            logs = logits.log_softmax(-1).gather(-1, padded[:, 1:, None])[..., 0].double().cpu().numpy()
            for row, place in enumerate(chosen):
                found[place] = logs[row, : len(ids[place]) - 1]
        return found

    def losses(self, texts: Sequence[str]) -> list[float]:
        """The mean negative log-probability of the tokens of each text; infinite for a text of one token."""
        logs = self.log_probabilities(texts)
        return [float(-of.mean()) if len(of) else float("inf") for of in logs]

    @torch.inference_mode()
    def continuations(self, prefix: str, count: int, *, most_tokens: int) -> list[str]:
        """So many continuations drawn at temperature 1 from the 50 likeliest tokens, the prefix in front."""
        ids = self.tokenizer(prefix, return_tensors="pt")["input_ids"].to(self.device)
        room = max(1, min(most_tokens, self.longest - ids.shape[1]))
        pad = self.tokenizer.pad_token_id
        drawn = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_p=1.0,
            top_k=TOP_K,
            num_return_sequences=count,
            max_new_tokens=room,
            pad_token_id=pad if pad is not None else self.tokenizer.eos_token_id,
        )
        texts: list[str] = self.tokenizer.batch_decode(drawn, skip_special_tokens=True)
        return texts
