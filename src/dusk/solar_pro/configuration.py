"""The config of Solar Pro: Llama's, a sliding window, and the lists of its skips."""

from huggingface_hub.dataclasses import strict
from transformers.models.llama.configuration_llama import LlamaConfig

from dusk.skips import LAYER_KEYS, PUBLISHED, PUBLISHED_WEIGHTS, config_problems


@strict
class SolarConfig(LlamaConfig):
    """The config of upstage/solar-pro-preview-instruct, with the defaults of its published class.

    `bskcn_1` and `bskcn_2` list the layers before which the hidden state is stored in slot 1 and 2, `bskcn_3`
    and `bskcn_4` those before which the slot is blended into it; `bskcn_tv` are the slot's weights in
    training and in inference. Layers are counted from 0; those beyond the last are never reached. None is
    the published list, an empty list is no skip. `sliding_window` counts the tokens that a token sees, itself
    among them; None is all.

    Raises a validation error (huggingface_hub's `StrictDataclassClassValidationError`) that names every fault of
    the skips.
    """

    model_type = "solar"
    # A stage that takes the hidden state alone would compute another function without a word.
    base_model_pp_plan = None

    sliding_window: int | None = 2047
    bskcn_1: list[int] | None = None
    bskcn_2: list[int] | None = None
    bskcn_3: list[int] | None = None
    bskcn_4: list[int] | None = None
    bskcn_tv: list[int | float] | None = None

    def __post_init__(self, **kwargs: object) -> None:
        for key, layers in PUBLISHED.to_config().items():
            if getattr(self, key) is None:
                setattr(self, key, layers)
        if self.bskcn_tv is None:
            self.bskcn_tv = list(PUBLISHED_WEIGHTS)
        super().__post_init__(**kwargs)

    def validate_skips(self) -> None:
        """Raises ValueError with every fault of the skips."""
        problems = config_problems({key: getattr(self, key) for key in (*LAYER_KEYS, "bskcn_tv")})
        if problems:
            raise ValueError("the skip connections cannot be used: " + "; ".join(problems))
