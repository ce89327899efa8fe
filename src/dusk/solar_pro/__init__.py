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
    "skip_weight",
]

AutoConfig.register("solar", SolarConfig, exist_ok=True)
AutoModel.register(SolarConfig, SolarModel, exist_ok=True)
AutoModelForCausalLM.register(SolarConfig, SolarForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(SolarConfig, SolarForSequenceClassification, exist_ok=True)
