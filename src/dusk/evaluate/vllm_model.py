"""The harness's vLLM model, for machines where vLLM is installed."""

from pathlib import Path
from typing import Any

from lm_eval.models.vllm_causallms import VLLM

from dusk.checkpoint import open_checkpoint


class VllmModel(VLLM):  # type: ignore[misc]  # the harness is untyped
    """VLLM with what a run asks of a model; prompts that do not fit are cut uncounted."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.cut: set[tuple[str, int]] = set()
        self.on_request = lambda: None

    @property
    def device(self) -> str:
        """Where it runs, for messages."""
        return "vllm"


def load_vllm(
    path: Path, *, dtype: str, batch_size: int | str | None, add_bos_token: bool | None
) -> VllmModel:
    """Load a local model folder with vLLM, which shares prefixes by itself (`enable_prefix_caching`).

    Raises:
        CheckpointError: the folder is no whole model.
    """
    open_checkpoint(path)
    return VllmModel(
        pretrained=str(path),
        dtype=dtype,
        batch_size=batch_size or "auto",
        add_bos_token=add_bos_token,
        enable_prefix_caching=True,
    )
