"""A client of OpenAI-compatible servers: concurrent, rate-limited, cached by request, resumable.

Every answer is kept in a file beside the output, keyed by what was asked, so a run that was stopped asks only for
what it does not have. A request that fails in a way that may pass (no connection, silence, a stream that is cut,
status 408, 409, 429 and 5xx) is made again, later each time; one that is refused is not.

The key comes from an environment variable; it is sent, and neither written nor shown anywhere.
"""

import asyncio
import hashlib
import importlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dusk.errors import SettingError, WorkError

KEY_VARIABLE = "OPENAI_API_KEY"
_AGAIN = {408, 409, 429}
_LONGEST_WAIT_SECONDS = 60.0
_LEAST_TRIED = 8  # requests that all fail before the server is taken to be down


@dataclass(frozen=True)
class Server:
    """How a server is asked.

    `url` ends with the API's version (`http://localhost:8000/v1`). `key_variable` names the environment variable
    with the key; servers at home need none. Prices are in money per million tokens, for the cost that is shown.
    Without `max_tokens` the server decides how long an answer may be.

    Raises:
        SettingError: a URL that is none.
    """

    url: str
    model: str
    concurrency: int = 8
    requests_per_minute: float | None = None
    timeout_seconds: float = 120.0
    attempts: int = 5
    temperature: float = 0.7
    max_tokens: int | None = 1024
    key_variable: str = KEY_VARIABLE
    price_in: float = 0.0
    price_out: float = 0.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise SettingError(f"server: {self.url!r} is no URL", remedy="Such as http://localhost:8000/v1.")

    def asked(self, messages: Sequence[Mapping[str, str]], seed: int) -> dict[str, Any]:
        """The body of a request."""
        body = {
            "model": self.model,
            "messages": list(messages),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": seed,
        }
        return {name: value for name, value in body.items() if value is not None}


@dataclass
class Usage:
    """What was asked and what it cost."""

    requests: int = 0
    cached: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    failed: Counter[str] = field(default_factory=Counter)

    def cost(self, server: Server) -> float:
        """The money that the tokens cost, at the prices given."""
        return (self.tokens_in * server.price_in + self.tokens_out * server.price_out) / 1e6

    def to_json(self) -> dict[str, Any]:
        """The counts by name."""
        return asdict(self) | {"failed": dict(self.failed)}


class RequestError(Exception):
    """A request without an answer, and why.

    `passing` if it may go better later; `unusable` if there was an answer that is of no use.
    """

    def __init__(
        self, reason: str, *, passing: bool, unusable: bool = False, after_seconds: float | None = None
    ) -> None:
        super().__init__(reason)
        self.reason, self.passing, self.after_seconds = reason, passing, after_seconds
        self.unusable = unusable


class Cache:
    """Answers by request, in a file that grows line by line; a last line that was cut off is left out."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.answers: dict[str, str] = {}
        whole = 0
        if file.exists():
            for line in file.read_bytes().splitlines(keepends=True):
                try:
                    entry = json.loads(line)
                    self.answers[entry["request"]] = entry["answer"]
                except (ValueError, KeyError, TypeError):
                    break
                whole += len(line)
            os.truncate(file, whole)
        self.stream = file.open("ab")

    @staticmethod
    def key(body: Mapping[str, Any]) -> str:
        """What a request is known by: all that is asked, of whatever server of that model."""
        told = json.dumps(body, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(told.encode()).hexdigest()

    def keep(self, key: str, answer: str) -> None:
        """Keep an answer, at once."""
        self.answers[key] = answer
        entry = json.dumps({"request": key, "answer": answer}, ensure_ascii=False)
        self.stream.write(entry.encode() + b"\n")
        self.stream.flush()

    def close(self) -> None:
        """Close the file."""
        self.stream.close()


class Client:
    """Asks a server, many requests at a time; without a cache each request is made."""

    def __init__(self, server: Server, cache: Cache | None = None, usage: Usage | None = None) -> None:
        self.server, self.cache, self.usage = server, cache, usage or Usage()
        self.slots = asyncio.Semaphore(server.concurrency)
        self.next_start = 0.0
        self.answered = False
        self.down: RequestError | None = None
        self.failures = 0

    @asynccontextmanager
    async def connected(self) -> AsyncIterator["Client"]:
        """A connection pool for as long as it is open."""
        httpx = _http()
        key = os.environ.get(self.server.key_variable)
        limits = httpx.Limits(max_connections=self.server.concurrency)
        self.http_error: type[Exception] = httpx.HTTPError
        async with httpx.AsyncClient(
            timeout=self.server.timeout_seconds,
            limits=limits,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            trust_env=False,
        ) as self.http:
            yield self

    async def answer(self, messages: Sequence[Mapping[str, str]], seed: int) -> str:
        """The answer to a conversation.

        Raises:
            RequestError: the server has refused, or has not answered after all attempts.
            WorkError: the server is down: it has answered nothing yet, or refuses the key.
        """
        body = self.server.asked(messages, seed)
        key = Cache.key(body)
        if self.cache is not None and key in self.cache.answers:
            self.usage.cached += 1
            return self.cache.answers[key]
        async with self.slots:
            answer = await self._tried(body)
        if self.cache is not None:
            self.cache.keep(key, answer)
        return answer

    async def _tried(self, body: Mapping[str, Any]) -> str:
        for attempt in range(self.server.attempts):
            self.require_up()
            await self._turn()
            try:
                answer = await self._asked(body)
            except RequestError as failed:
                if not failed.passing or attempt == self.server.attempts - 1:
                    self._failed(failed)
                    raise
                self.usage.retries += 1
                await asyncio.sleep(_wait(attempt, failed.after_seconds))
            else:
                return answer
        raise AssertionError("a request is tried at least once")

    async def _asked(self, body: Mapping[str, Any]) -> str:
        """One request; its failures are told by reason, never by what was sent."""
        try:
            async with asyncio.timeout(self.server.timeout_seconds):
                response = await self.http.post(f"{self.server.url.rstrip('/')}/chat/completions", json=body)
        except TimeoutError:
            raise RequestError("no answer in time", passing=True) from None
        except self.http_error as error:
            raise RequestError(f"the connection failed ({type(error).__name__})", passing=True) from None
        status = response.status_code
        if status != 200:
            passing = status in _AGAIN or status >= 500
            raise RequestError(
                f"status {status}", passing=passing, after_seconds=_retry_after(response.headers)
            )
        return self._read(response)

    def _read(self, response: Any) -> str:
        try:
            told = response.json()
            choice = told["choices"][0]
            answer = choice["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            raise RequestError("the answer is none of the API", passing=True) from None
        self.answered = True
        if not isinstance(answer, str) or not answer.strip():
            raise RequestError("the answer is empty", passing=True, unusable=True)
        if choice.get("finish_reason") == "length":
            raise RequestError("the answer is longer than max_tokens", passing=False, unusable=True)
        usage = told.get("usage") or {}
        self.usage.requests += 1
        self.usage.tokens_in += usage.get("prompt_tokens") or 0
        self.usage.tokens_out += usage.get("completion_tokens") or 0
        return answer

    async def _turn(self) -> None:
        """Wait until the rate allows another request."""
        if self.server.requests_per_minute is None:
            return
        now = time.monotonic()
        start = max(now, self.next_start)
        self.next_start = start + 60.0 / self.server.requests_per_minute
        await asyncio.sleep(start - now)

    def _failed(self, failed: RequestError) -> None:
        self.usage.failed[failed.reason] += 1
        self.failures += 1
        refused = failed.reason in ("status 401", "status 403", "status 404")
        if refused or (not self.answered and self.failures >= _LEAST_TRIED):
            self.down = failed

    def require_up(self) -> None:
        """Raises WorkError with a remedy if the server is down, or refuses the key."""
        if self.down is None:
            return
        remedy = {
            "status 401": f"Put the server's key into the environment variable {self.server.key_variable}.",
            "status 403": f"The key in {self.server.key_variable} is not allowed to use {self.server.model}.",
            "status 404": f"The URL ends with the API's version (/v1), and the server knows {self.server.model}.",
        }.get(self.down.reason, "Start it, or wait; the same command continues with what is answered.")
        raise WorkError(f"{self.server.url}: the server gives no answer: {self.down.reason}.", remedy=remedy)


def _http() -> Any:
    """The HTTP client that huggingface_hub brings; only this needs it."""
    try:
        return importlib.import_module("httpx2")
    except ImportError:  # huggingface_hub 1
        return importlib.import_module("httpx")


def _wait(attempt: int, told_seconds: float | None) -> float:
    """Seconds until the next attempt: what the server says, or twice as long each time, with some chance."""
    if told_seconds is not None:
        return min(told_seconds, _LONGEST_WAIT_SECONDS)
    return float(min(0.5 * 2**attempt, _LONGEST_WAIT_SECONDS) * random.uniform(0.5, 1.0))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    try:
        return max(0.0, float(headers.get("retry-after", "")))
    except ValueError:
        return None
