"""Solar Pro Preview in transformers: importing this room registers model_type `solar` with the Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from dusk.solar_pro.configuration import SolarConfig
from dusk.solar_pro.modeling import (
    SolarForCausalLM,
    SolarForSequenceClassification,
    SolarModel,
    SolarPreTrainedModel,
    skip_weight,
)

__all__ = [
    "SolarConfig",
    "SolarForCausalLM",
    "SolarForSequenceClassification",
    "SolarModel",
    "SolarPreTrainedModel",
    "register",
    "skip_weight",
]


def register() -> None:
    """Let transformers' Auto classes know model_type `solar`; importing the room has done it."""
    AutoConfig.register("solar", SolarConfig, exist_ok=True)
    AutoModel.register(SolarConfig, SolarModel, exist_ok=True)
    AutoModelForCausalLM.register(SolarConfig, SolarForCausalLM, exist_ok=True)
    AutoModelForSequenceClassification.register(SolarConfig, SolarForSequenceClassification, exist_ok=True)


register()
