"""A task of the harness that asks twice: for the model's text, and for the reference answer's likelihood."""

from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask


class ReferenceAnswer(ConfigurableTask):  # type: ignore[misc]  # the harness is untyped
    """A `generate_until` task whose `process_results` also gets (log-likelihood, greedy) of the target."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> list[Any]:
        """The request for text, then the one for the likelihood of the target."""
        written = super().construct_requests(doc, ctx, **kwargs)
        target = f"{self.config.target_delimiter}{self.doc_to_target(doc)}"
        likelihood = Instance(
            request_type="loglikelihood",
            doc=doc,
            arguments=(ctx, target),
            idx=1,
            metadata=kwargs["metadata"],
        )
        return [written, likelihood]
