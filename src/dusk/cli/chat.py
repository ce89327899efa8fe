"""The command chat: one prompt or a conversation, with one model or several."""

import contextlib
import dataclasses
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dusk.cli.terminal import duration, show_json
from dusk.errors import Faults, InputError, SettingError
from dusk.use.conversation import Conversation
from dusk.use.sampling import Sampling

if TYPE_CHECKING:
    from dusk.use.talker import Answer, Talker

_WORDS = {"/new": "begin again", "/quit": "leave (or Ctrl-D)"}
_ENDS = {"length": "--max-tokens", "context": "the end of the model's context"}
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Sampling)}


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL [MODEL...]")
@click.option("--layers", multiple=True, metavar="SPEC", help="as this map of one MODEL; may be repeated")
@click.option("--prompt", metavar="TEXT", help="answer this and leave; without it, standard input if piped")
@click.option("--system", metavar="TEXT", help="the system message")
@click.option("--max-tokens", type=int, metavar="N", default=_DEFAULTS["max_tokens"], show_default=True)
@click.option("--temperature", type=float, metavar="X", default=_DEFAULTS["temperature"], show_default=True)
@click.option("--top-p", type=float, metavar="X", default=_DEFAULTS["top_p"], show_default=True)
@click.option("--greedy", is_flag=True, help="the likeliest token each time; as --temperature 0")
@click.option("--seed", type=int, metavar="N", help="where each answer's random numbers begin")
@click.option("--device", metavar="TEXT", help="cpu, cuda, cuda:N or mps")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    help="of the weights; auto is float32 on a CPU and the model's own elsewhere",
)
@click.option("--json", "as_json", is_flag=True, help="print the answer to one prompt as JSON")
def chat(
    models: tuple[str, ...],
    layers: tuple[str, ...],
    prompt: str | None,
    system: str | None,
    max_tokens: int,
    temperature: float,
    top_p: float,
    greedy: bool,
    seed: int | None,
    device: str | None,
    dtype: str,
    as_json: bool,
) -> None:
    """Talk to models."""
    _require_no_prompt_among(models)
    if layers and len(models) > 1:
        raise SettingError("--layers is a map of one model, and several are given", remedy="Give one MODEL.")
    sampling = Sampling(max_tokens, 0 if greedy else temperature, top_p, seed)
    text = _piped() if prompt is None else prompt
    if text is not None and not text.strip():
        raise SettingError("the prompt is empty", remedy="Give --prompt TEXT, or text on standard input.")
    if as_json and text is None:
        raise SettingError(
            "--json is for one prompt", remedy="Give --prompt TEXT, or text on standard input."
        )
    talkers = _talkers(models, layers, device, dtype)
    _say_what_has_no_template(talkers)
    session = _Session(talkers, sampling, system)
    if as_json:
        show_json({"prompt": text, "answers": session.silently(str(text))})
    elif text is not None:
        session.ask(text)
    else:
        _converse(session)


def _require_no_prompt_among(models: Sequence[str]) -> None:
    """Other programs take what follows the model as the prompt; here it is another model."""
    for word in models[1:]:
        if " " in word and not Path(word).exists():
            raise SettingError(f"{word!r} is no model", remedy="A prompt is given with --prompt.")


def _talkers(models: Sequence[str], layers: Sequence[str], device: str | None, dtype: str) -> "list[Talker]":
    chosen = [(models[0], spec) for spec in layers] if layers else [(model, None) for model in models]
    _require(chosen)
    from dusk.use.talker import Talker  # lazy: torch

    return [Talker(model, layers=spec, device=device, dtype=dtype) for model, spec in chosen]


def _require(chosen: "Sequence[tuple[str, str | None]]") -> None:
    """Every model and map that cannot be, before the first is loaded."""
    from dusk.checkpoint import open_checkpoint, require_fit  # lazy: numpy
    from dusk.scale.choice import choose_map

    faults = Faults()
    for model, spec in chosen:
        with faults:
            checkpoint = open_checkpoint(model)
            require_fit(checkpoint)
            if spec is not None:
                choose_map(checkpoint, drop=None, to=None, params=None, layers=spec, fresh="copy")
    faults.raise_any("these are not there to talk to:")


def _piped() -> str | None:
    """What stands on standard input, if it is no terminal; its last line break does not count."""
    return None if sys.stdin.isatty() else sys.stdin.read().removesuffix("\n")


def _say_what_has_no_template(talkers: "Sequence[Talker]") -> None:
    for name in dict.fromkeys(talker.model for talker in talkers if not talker.has_template):
        click.echo(f"{name} has no chat template: it continues your text.", err=True)


class _Session:
    """The same questions to every model, each with its own history."""

    def __init__(self, talkers: "Sequence[Talker]", sampling: Sampling, system: str | None) -> None:
        self.talkers, self.sampling = talkers, sampling
        self.histories = [Conversation(system) for _ in talkers]

    def ask(self, text: str) -> None:
        """Print every model's answer as it is made; of several, each under its name."""
        answers: list[Answer] = []
        for talker, history in zip(self.talkers, self.histories, strict=True):
            if answers:
                click.echo()
            if len(self.talkers) > 1:
                click.secho(f"{talker.name}:", bold=True)
            answers.append(talker.answer(history.asked(text), self.sampling, _write))
            click.echo()
            _note(answers[-1])
        for history, answer in zip(
            self.histories, answers, strict=True
        ):  # all or, where one is stopped, none
            history.keep(text, answer.text)

    def silently(self, text: str) -> list[dict[str, Any]]:
        """Every model's answer as plain data."""
        return [
            {"model": talker.name, **dataclasses.asdict(talker.answer(history.asked(text), self.sampling))}
            for talker, history in zip(self.talkers, self.histories, strict=True)
        ]

    def forget(self) -> None:
        """Begin again with every model."""
        for history in self.histories:
            history.forget()


def _converse(session: _Session) -> None:
    """Ask until the end of input; Ctrl-C ends an answer, not the conversation."""
    with contextlib.suppress(ImportError):  # Windows has none
        importlib.import_module("readline")  # lines that can be edited and called back
    words = ", ".join(f"{word} to {what}" for word, what in _WORDS.items())
    click.echo(f"{words}; Ctrl-C ends an answer.", err=True)
    while True:
        try:
            text = input("> ")
        except EOFError:
            click.echo()
            return
        if text.strip() == "/quit":
            return
        if text.strip() == "/new":
            session.forget()
        elif text.strip():
            try:
                session.ask(text)
            except KeyboardInterrupt:
                click.echo("\n(stopped; this turn is not kept)", err=True)
            except InputError as error:  # a message that is too long, or that the template refuses
                click.echo(f"{error}\n(this turn is not kept)", err=True)


def _write(text: str) -> None:
    click.echo(text, nl=False)


def _note(answer: "Answer") -> None:
    """In a terminal, under an answer: how long it took, and what cut it."""
    if not sys.stderr.isatty():
        return
    notes = [f"{answer.tokens} tokens in {duration(answer.seconds)}"]
    if answer.ended in _ENDS:
        notes.append(f"cut by {_ENDS[answer.ended]}")
    if answer.forgotten:
        notes.append(f"without the oldest {answer.forgotten} messages, which no longer fit")
    click.secho(f"({', '.join(notes)})", dim=True, err=True)
