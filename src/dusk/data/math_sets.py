"""Synth. Math-Instruct and Synth. Math-Alignment (SOLAR, section 4.1) from any set of questions and answers.

A seed set's questions and answers are put in other words, by rule or by a language model behind an
OpenAI-compatible server. A rephrased pair is tuned on; in alignment the rephrased answer to the rephrased
question is preferred to the original answer. Left out, and counted by reason, is what changed a number, is a
copy or nearly one, or was not answered. Prompts are files, `question.txt` and `answer.txt`.
"""

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dusk.data.collect import Tally, collect
from dusk.data.convert import Converter
from dusk.data.hub import data_files
from dusk.data.minhash import likeness, signatures
from dusk.data.near import NearDuplicates
from dusk.data.outputs import DataFolder
from dusk.data.passes import Progress, run_pass
from dusk.data.rephrase import RuleRephraser, changed
from dusk.data.server import KEY_VARIABLE, Cache, Client, RequestError, Server, Usage
from dusk.data.units import units
from dusk.errors import DataError, SettingError

Form = Literal["instruct", "alignment"]
Outcome = tuple[str, str] | str
"""A rephrased question and answer, or why there are none."""

PROMPTS = Path(__file__).with_name("prompts")
ANSWERS_FILE = "answers.jsonl"

_SEEDS_FILE = "seeds.jsonl"
_NEARLY_A_COPY = 0.9  # likeness of a rephrased question and its original, by shingles of five words


def math_set(
    out: str | Path,
    *,
    data: Sequence[str | Path],
    form: Form = "instruct",
    source: str | None = None,
    seed: int = 0,
    near_duplicates: float = 0.8,
    server: str | None = None,
    model: str | None = None,
    prompts: str | Path = PROMPTS,
    concurrency: int = 8,
    requests_per_minute: float | None = None,
    timeout_seconds: float = 120.0,
    temperature: float = 0.7,
    max_tokens: int = 1024,
    key_variable: str = KEY_VARIABLE,
    price_in: float = 0.0,
    price_out: float = 0.0,
    cache: str | Path | None = None,
    skip_bad: bool = False,
    license: str | None = None,
    rejects: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make a set of mathematics in other words, into the folder `out`.

    Args:
        out: the folder to make.
        data: files or hub ids of questions with answers (GSM8K, MATH, or rows of prompt and completion).
        form: instruct for rows {"prompt", "completion"} of rephrased questions and answers; alignment for
            {"prompt", "chosen", "rejected"}: rephrased question, rephrased answer, original answer.
        source: whose form the rows have; else told from the fields.
        seed: of the rules' choices, and of the server's sampling.
        near_duplicates: likeness from which a rephrased question is left out, of those before it.
        server: URL of an OpenAI-compatible server, up to its version; without one the rules of
            `dusk.data.rephrase` are used.
        model: the model that the server is asked for.
        prompts: a folder with question.txt and answer.txt.
        concurrency: requests at a time.
        requests_per_minute: how often at most a request begins.
        timeout_seconds: how long an answer may take.
        temperature, max_tokens: of the server's sampling.
        key_variable: the environment variable with the server's key.
        price_in, price_out: money per million tokens, for the cost that is told.
        cache: the file of answers by request; else answers.jsonl in the folder.
        skip_bad, license, rejects: as in `dusk.data.convert`.

    Raises:
        DataError: files that cannot be read, or rows that cannot be used.
        SettingError: a server without a model, prompts without their places, or `out` exists.
        WorkError: the server is down, or refuses the key. What is answered is kept.
    """
    if (server is None) != (model is None):
        raise SettingError("server and model are given together, or neither of them.")
    files = data_files(data)
    rephraser: _Rules | _Model = _Rules(seed)
    settings: dict[str, Any] = {"source": source, "seed": seed, "near_duplicates": near_duplicates}
    if server is not None and model is not None:
        asked = Server(
            server,
            model,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            timeout_seconds=timeout_seconds,
            temperature=temperature,
            max_tokens=max_tokens,
            key_variable=key_variable,
            price_in=price_in,
            price_out=price_out,
        )
        rephraser = _Model(asked, load_prompts(Path(prompts)), seed)
        settings |= rephraser.settings()
    licenses = dict.fromkeys(files, license) if license else None
    command = f"data math-{form}"
    with DataFolder(out, command, files, settings, licenses=licenses, rejects=rejects) as folder:
        parts = run_pass(
            units(files), Converter(source, seed, mask_pii=False), folder.parts, workers=1, skip_bad=skip_bad
        )
        seeds = folder.scratch / _SEEDS_FILE
        tally = collect(parts, seeds, rejects=folder.rejects)
        writing = _Writing(form, tally, folder, near_duplicates, progress)
        told = rephraser.run(seeds, writing, Path(cache) if cache else folder.path / ANSWERS_FILE)
        return folder.finish(tally, **told)


math_instruct = math_set
math_alignment = partial(math_set, form="alignment")


@dataclass(frozen=True)
class Prompts:
    """What a server is asked: texts with a place for {question}, and one for {answer} too."""

    question: str
    answer: str

    def digest(self) -> str:
        """What the card knows them by."""
        both = json.dumps([self.question, self.answer]).encode()
        return f"sha256:{hashlib.sha256(both).hexdigest()}"


def load_prompts(folder: Path) -> Prompts:
    """The prompts of a folder; raises `SettingError` where a file or a place is missing."""
    found, problems = {}, []
    for name, places in {"question": {"question": ""}, "answer": {"question": "", "answer": ""}}.items():
        file = folder / f"{name}.txt"
        try:
            found[name] = file.read_text(encoding="utf-8")
            found[name].format(**places)
            problems += [
                f"{file}: has no place {{{place}}}" for place in places if f"{{{place}}}" not in found[name]
            ]
        except OSError as error:
            problems.append(f"{file}: {error.strerror}")
        except (KeyError, ValueError, IndexError) as error:
            problems.append(f"{file}: {{ and }} that are no place are written twice ({error!r})")
    if problems:
        raise SettingError(f"{folder}: no prompts that can be used", problems=problems)
    return Prompts(**found)


class _Writing:
    """Rows as they are made: judged, counted, and written where they are wanted."""

    def __init__(
        self, form: Form, tally: Tally, folder: DataFolder, near: float, progress: Progress | None
    ) -> None:
        self.form, self.tally, self.folder, self.progress = form, tally, folder, progress
        self.near = NearDuplicates(near)
        self.done, self.total = 0, tally.kept

    def rows(self, pairs: Iterator[tuple[Mapping[str, Any], Outcome]]) -> None:
        """Write what is rephrased by rule."""
        with self.folder.rows.open("wb") as self.out:
            for row, outcome in pairs:
                self.take(row, outcome, by_rule=True)

    def take(self, row: Mapping[str, Any], outcome: Outcome, *, by_rule: bool, note: str = "") -> None:
        """Write one row, or count why not."""
        if isinstance(outcome, str):
            self._leave_out(row, outcome, {})
        elif (reason := self._reason(row, *outcome, by_rule=by_rule)) is not None:
            self._leave_out(row, reason, {"question": outcome[0], "answer": outcome[1]})
        else:
            made = self._made(row, *outcome)
            self.out.write(json.dumps(made, ensure_ascii=False).encode() + b"\n")
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total, "rows", message=note)

    def _leave_out(self, row: Mapping[str, Any], reason: str, made: Mapping[str, str]) -> None:
        self.tally.kept -= 1
        self.tally.left_out[reason] += 1
        if self.folder.rejects is not None:
            told = {"reason": reason, "made": made, "row": row}
            self.folder.rejects.write(json.dumps(told, ensure_ascii=False).encode() + b"\n")

    def _reason(self, row: Mapping[str, Any], question: str, answer: str, *, by_rule: bool) -> str | None:
        reason = changed(row["prompt"], row["completion"], question, answer)
        if reason is not None or by_rule:  # the rules change few words
            return reason
        found = signatures([row["prompt"], question])
        if likeness(found[:1], found[1:])[0] >= _NEARLY_A_COPY:
            return "the question is nearly a copy"
        return "the question nearly stands twice" if self.near.seen(found[1]) else None

    def _made(self, row: Mapping[str, Any], question: str, answer: str) -> dict[str, Any]:
        more = {key: row[key] for key in ("level", "id", "source") if key in row}
        if self.form == "instruct":
            return {"prompt": question, "completion": answer, **more}
        return {"prompt": question, "chosen": answer, "rejected": row["completion"], **more}


def _seed_rows(file: Path) -> Iterator[dict[str, Any]]:
    with file.open("rb") as lines:
        for line in lines:
            row: dict[str, Any] = json.loads(line)
            if not isinstance(row.get("prompt"), str) or not isinstance(row.get("completion"), str):
                raise DataError(
                    f"the seeds hold a row that is no question with an answer: it has {', '.join(row)}",
                    remedy="Give rows such as GSM8K's or MATH's, or of prompt and completion.",
                )
            yield row


@dataclass(frozen=True)
class _Rules:
    """Rephrases by rule."""

    seed: int

    def run(self, seeds: Path, writing: _Writing, cache: Path) -> dict[str, Any]:
        rules = RuleRephraser(self.seed)
        writing.rows((row, rules.rephrase(row["prompt"], row["completion"])) for row in _seed_rows(seeds))
        return {"rephrased_by": "rule"}


@dataclass(frozen=True)
class _Model:
    """Rephrases by a model behind a server: the question first, then the answer for the new question."""

    server: Server
    prompts: Prompts
    seed: int

    def settings(self) -> dict[str, Any]:
        """What decides the answers."""
        names = ("model", "temperature", "max_tokens")
        return {name: getattr(self.server, name) for name in names} | {"prompts": self.prompts.digest()}

    def run(self, seeds: Path, writing: _Writing, cache: Path) -> dict[str, Any]:
        usage = Usage()
        kept = Cache(cache)
        try:
            asyncio.run(self._run(seeds, writing, Client(self.server, kept, usage)))
        finally:
            kept.close()
        told = {"rephrased_by": self.server.model, "usage": usage.to_json()}
        priced = self.server.price_in or self.server.price_out
        return told | ({"cost": round(usage.cost(self.server), 4)} if priced else {})

    async def _run(self, seeds: Path, writing: _Writing, client: Client) -> None:
        async with client.connected():
            with writing.folder.rows.open("wb") as writing.out:
                async for row, outcome in self._in_order(seeds, client):
                    writing.take(row, outcome, by_rule=False, note=self._note(client.usage))

    async def _in_order(self, seeds: Path, client: Client) -> AsyncIterator[tuple[dict[str, Any], Outcome]]:
        """The outcomes in the order of the seeds, some rows ahead of the one that is waited for."""
        waiting: deque[tuple[dict[str, Any], asyncio.Task[Outcome]]] = deque()
        try:
            for row in _seed_rows(seeds):
                waiting.append((row, asyncio.create_task(self._outcome(row, client))))
                if len(waiting) >= 4 * self.server.concurrency:
                    first, task = waiting.popleft()
                    yield first, await task
            while waiting:
                first, task = waiting.popleft()
                yield first, await task
        finally:
            for _, task in waiting:
                task.cancel()
            await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)

    async def _outcome(self, row: Mapping[str, Any], client: Client) -> Outcome:
        try:
            question = await self._ask(client, self.prompts.question.format(question=row["prompt"]))
            told = self.prompts.answer.format(question=question, answer=row["completion"])
            return question, await self._ask(client, told)
        except RequestError as error:
            return f"not answered: {error.reason}"

    async def _ask(self, client: Client, text: str) -> str:
        return (await client.answer([{"role": "user", "content": text}], self.seed)).strip()

    def _note(self, usage: Usage) -> str:
        tokens = f"{usage.tokens_in + usage.tokens_out:,} tokens"
        return f"{tokens}, cost {usage.cost(self.server):.2f}" if self.server.price_in else tokens
