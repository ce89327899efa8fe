"""The data sets of SOLAR's table 1 and their like: what their rows hold, and what a row of training is made of.

One function a source. It takes the fields of a row and gives {"prompt", "completion"}, {"prompt", "chosen",
"rejected"} or {"messages"} as TRL has them (with "id" where there is one); it raises `RowError` for a row that
lacks what the source promises, and `UnwantedError` for one that is sound but not wanted.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dusk.data.fields import RowError, UnwantedError, answer_of, text_of
from dusk.data.kinds import KINDS, Kind, fault
from dusk.data.ultrafeedback import scored_pair
from dusk.errors import SettingError

Fields = Mapping[str, Any]
Row = dict[str, Any]
Convert = Callable[[Fields, int], Row]
"""From a source's fields and a seed to a row of training."""


@dataclass(frozen=True)
class Source:
    """A published data set.

    `fields` are those that its rows are known by; `most` is how many rows SOLAR used of it (table 1, "maximum
    number of samples used"); `license` is that of `hub_id`.
    """

    name: str
    fields: tuple[str, ...]
    convert: Convert
    hub_id: str = ""
    license: str = ""
    most: int | None = None


def alpaca(fields: Fields, seed: int) -> Row:
    """Alpaca-GPT4 (Peng et al. 2023) and all sets in Stanford Alpaca's form."""
    instruction, given = text_of(fields, "instruction"), text_of(fields, "input", empty=True)
    prompt = f"{instruction}\n\n{given}" if given.strip() else instruction
    return {"prompt": prompt, "completion": text_of(fields, "output")}


def open_orca(fields: Fields, seed: int) -> Row:
    """OpenOrca (Lian et al. 2023), whose ids are FLAN's submixes: "niv.", "t0.", "cot.", "flan." and a number."""
    asked = _asked(text_of(fields, "system_prompt", empty=True), text_of(fields, "question"))
    return asked_and_answered(asked, completion=text_of(fields, "response"))


def orca_dpo_pairs(fields: Fields, seed: int) -> Row:
    """Orca DPO Pairs (Intel 2023); some copies call the question "prompt"."""
    question = text_of(fields, "question" if "question" in fields else "prompt")
    asked = _asked(text_of(fields, "system", empty=True), question)
    return _preference(asked, text_of(fields, "chosen"), text_of(fields, "rejected"))


def ultrafeedback_cleaned(fields: Fields, seed: int) -> Row:
    """UltraFeedback (Cui et al. 2023) binarised, with or without the cleaning of TruthfulQA's prompts."""
    asked = _asked(text_of(fields, "system", empty=True), text_of(fields, "prompt"))
    row = _preference(asked, answer_of(fields, "chosen"), answer_of(fields, "rejected"))
    return row | {key: fields[key] for key in ("score_chosen", "score_rejected") if key in fields}


def ultrafeedback(fields: Fields, seed: int) -> Row:
    """UltraFeedback with all answers and scores, paired by Zephyr's rule (see `dusk.data.ultrafeedback`)."""
    prompt = text_of(fields, "instruction")
    pair = scored_pair(prompt, fields.get("completions"), seed)
    scores = {"score_chosen": pair.chosen.score, "score_rejected": pair.rejected.score}
    return _preference(prompt, pair.chosen.text, pair.rejected.text) | scores


def metamath(fields: Fields, seed: int) -> Row:
    """MetaMathQA (Yu et al. 2023): the types seeded from MATH, since SOLAR keeps GSM8K out (section 4.1)."""
    kind = text_of(fields, "type")
    if not kind.startswith("MATH_"):
        raise UnwantedError("seeded from GSM8K")
    return {"prompt": text_of(fields, "query"), "completion": text_of(fields, "response")}


def math(fields: Fields, seed: int) -> Row:
    """MATH (Hendrycks et al. 2021)."""
    row: Row = {"prompt": text_of(fields, "problem"), "completion": text_of(fields, "solution")}
    level = str(fields.get("level", "")).removeprefix("Level ")
    return row | ({"level": int(level)} if level.isdecimal() else {})


def gsm8k(fields: Fields, seed: int) -> Row:
    """GSM8K (Cobbe et al. 2021)."""
    return {"prompt": text_of(fields, "question"), "completion": text_of(fields, "answer")}


def trl(fields: Fields, seed: int) -> Row:
    """Rows in one of TRL's forms; a text "system" beside a text prompt goes before it as a message.

    Of two conversations without a prompt, the messages that both begin with are the prompt; "conversations" in
    ShareGPT's words become messages.
    """
    fields = _with_messages(_with_prompt(fields))
    wrong = fault(fields, KINDS)
    if wrong is not None:
        raise RowError(wrong)
    kind = Kind.of(fields)
    assert kind is not None
    row = {name: fields[name] for name in kind.value}
    system = fields.get("system")
    if isinstance(system, str) and system.strip() and isinstance(row.get("prompt"), str):
        asked = _asked(system, row["prompt"])
        answers = {name: answer_of(row, name) for name in kind.value if name != "prompt"}
        row = asked_and_answered(asked, **answers)
    return row | {name: fields[name] for name in ("level", "difficulty") if name in fields}


def _with_prompt(fields: Fields) -> Fields:
    """TRL's preferences with an implicit prompt: what "chosen" and "rejected" begin with alike is the prompt."""
    chosen, rejected = fields.get("chosen"), fields.get("rejected")
    if "prompt" in fields or not (isinstance(chosen, list) and isinstance(rejected, list)):
        return fields
    pairs = enumerate(zip(chosen, rejected, strict=False))
    shared = next((place for place, (one, other) in pairs if one != other), min(len(chosen), len(rejected)))
    if chosen == rejected and chosen:  # said to be the same by what checks all rows
        shared -= 1
    return {**fields, "prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}


_SAID_BY = {"human": "user", "gpt": "assistant"}


def _with_messages(fields: Fields) -> Fields:
    """ShareGPT's {"conversations": [{"from", "value"}]} as {"messages": [{"role", "content"}]}."""
    turns = fields.get("conversations")
    if "messages" in fields or not isinstance(turns, list) or not all(isinstance(t, Mapping) for t in turns):
        return fields
    said = [
        {
            "role": _SAID_BY.get(str(turn.get("from")), turn.get("role", turn.get("from"))),
            "content": turn.get("value", turn.get("content")),
        }
        for turn in turns
    ]
    return {**fields, "messages": said}


def asked_and_answered(asked: str | list[dict[str, str]], **answers: str) -> Row:
    """A row of a prompt and answers, which are messages where the prompt is (TRL wants both alike)."""
    if isinstance(asked, str):
        return {"prompt": asked, **answers}
    told = {name: [{"role": "assistant", "content": text}] for name, text in answers.items()}
    return {"prompt": asked, **told}


def _asked(system: str, question: str) -> str | list[dict[str, str]]:
    """A question as text, or behind its system message as messages."""
    if not system.strip():
        return question
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


def _preference(asked: str | list[dict[str, str]], chosen: str, rejected: str) -> Row:
    if chosen == rejected:
        raise UnwantedError("chosen and rejected are the same")
    return asked_and_answered(asked, chosen=chosen, rejected=rejected)


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            "alpaca-gpt4",
            ("instruction", "output"),
            alpaca,
            "vicgalle/alpaca-gpt4",
            "cc-by-nc-4.0",
            52_000,
        ),
        Source(
            "open-orca",
            ("system_prompt", "question", "response"),
            open_orca,
            "Open-Orca/OpenOrca",
            "mit",
            100_000,
        ),
        Source(
            "ultrafeedback", ("instruction", "completions"), ultrafeedback, "openbmb/UltraFeedback", "mit"
        ),
        Source(
            "orca-dpo-pairs",
            ("system", "question", "chosen", "rejected"),
            orca_dpo_pairs,
            "Intel/orca_dpo_pairs",
            "apache-2.0",
            12_900,
        ),
        Source(
            "ultrafeedback-cleaned",
            ("prompt", "chosen", "rejected", "score_chosen", "score_rejected"),
            ultrafeedback_cleaned,
            "allenai/ultrafeedback_binarized_cleaned",
            "mit",
            60_800,
        ),
        Source("metamath", ("query", "response", "type"), metamath, "meta-math/MetaMathQA", "mit", 52_000),
        Source("math", ("problem", "solution"), math, license="mit"),
        Source("gsm8k", ("question", "answer"), gsm8k, "openai/gsm8k", "mit"),
        Source("trl", (), trl),
    )
}


def source_named(name: str) -> Source:
    """The source of that name.

    Raises:
        SettingError: there is none.
    """
    if name in SOURCES:
        return SOURCES[name]
    near = difflib.get_close_matches(name.lower(), SOURCES, 1)
    raise SettingError(
        f"there is no source {name!r}",
        remedy=f"{f'Did you mean {near[0]}? ' if near else ''}There are {', '.join(SOURCES)}.",
    )


def source_of(fields: Fields) -> Source:
    """The source that a row with these fields is of: the first whose fields it has, else one of TRL's forms."""
    return _source_by(tuple(fields))


@lru_cache(maxsize=1000)
def _source_by(names: tuple[str, ...]) -> Source:
    known = (source for source in SOURCES.values() if source.fields)
    return next((source for source in known if set(source.fields) <= set(names)), SOURCES["trl"])
