"""What a run asks of the harness's models besides their answers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lm_eval.api.model import TemplateLM

from dusk.errors import SettingError


class WatchedModel(TemplateLM):  # type: ignore[misc]  # the harness is untyped
    """Stands before a model class of the harness's among its bases: quiet, watched, and counting what is cut.

    `on_request` is called after each request. Prompts that do not fit the context are cut from the left, as the
    harness does silently; `cut` names (task, document) of each.

    Where the tokenizer puts BOS in front of a text, the harness's rolling likelihood has it twice, as the prefix
    and as the first token to predict, which no model has learnt; here it is the prefix alone.
    """

    on_request: Callable[[], None] = staticmethod(lambda: None)
    _adds_bos: bool | None = None
    _asked: Sequence[Any] = ()

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.cut: set[tuple[str, int]] = set()
        self.set_cache_hook(_RequestHook(self))

    @property
    def scorable_tokens(self) -> int:
        """How many tokens of context and continuation fit: nothing is computed behind the last one."""
        return int(self.max_length) + 1

    def release(self) -> None:
        """Give back what it holds beyond its objects, before another model is loaded."""

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """As the harness's, without a bar."""
        self._asked = requests
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        self._asked = ()
        return answers

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """As the harness's, without a second BOS."""
        with self._without_bos():
            logs: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
        return logs

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """As the harness's.

        Raises:
            SettingError: as many tokens are to be generated as the context has.
        """
        for request in requests:
            wanted = request.args[1].get("max_gen_toks", self.max_gen_toks)
            if wanted >= self.max_length:
                raise self._misfit(request, f"{wanted} tokens are to be generated")
            if len(self.tok_encode(request.args[0])) > self.max_length - wanted:
                self._note_cut(request)
        texts: list[str] = super().generate_until(requests, disable_tqdm=True)
        return texts

    def tok_encode(self, string: Any, add_special_tokens: bool | None = None, **kwargs: Any) -> Any:
        """As the harness's; without BOS while rolling."""
        wanted = self._adds_bos if add_special_tokens is None else add_special_tokens
        return super().tok_encode(string, add_special_tokens=wanted, **kwargs)

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = True, **kwargs: Any) -> Any:
        """(log-likelihood, greedy) of each (strings, context ids, continuation ids), as the harness's."""
        self._watch(requests)
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, **kwargs)

    def _watch(self, requests: Any) -> None:
        """Note what does not fit; raises `SettingError` where an answer alone does not."""
        for asked, (_, context, continuation) in zip(self._asked, requests, strict=False):
            if len(continuation) >= self.scorable_tokens:
                raise self._misfit(asked, f"an answer has {len(continuation)}")
            if len(context) + len(continuation) > self.scorable_tokens:
                self._note_cut(asked)

    def _note_cut(self, request: Any) -> None:
        self.cut.add((str(request.task_name), int(request.doc_id)))

    def _misfit(self, request: Any, why: str) -> SettingError:
        return SettingError(
            f"task {request.task_name}: does not fit this model, whose context is {self.max_length} tokens: {why}"
        )

    @contextmanager
    def _without_bos(self) -> Iterator[None]:
        self._adds_bos = False
        try:
            yield
        finally:
            self._adds_bos = None


class _RequestHook:
    """Stands where the harness's cache would: it is told of every finished request."""

    def __init__(self, model: WatchedModel) -> None:
        self.model = model

    def add_partial(self, kind: str, request: Any, answer: Any) -> None:
        """Count the request."""
        self.model.on_request()
