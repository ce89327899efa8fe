"""Talking to models: what is said is what transformers says, streamed, and it stops by itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from transformers import AutoModelForCausalLM, AutoTokenizer

import dusk
from dusk.cli.main import dusk as command_line
from dusk.errors import DataError, InputError, SettingError
from dusk.use.conversation import Conversation, fitting
from dusk.use.sampling import Sampling
from dusk.use.talker import Talker
from train_models import save_base
from use_models import ANSWERS, tuned_model

GREEDY = Sampling(max_tokens=40, temperature=0)
ASKED, SAID = next(iter(ANSWERS.items()))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("chat") / "base", num_hidden_layers=4)


def chat(*words: Any, stdin: str = "") -> Result:
    return CliRunner().invoke(command_line, ["chat", *map(str, words)], input=stdin)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("asked", ANSWERS)
def test_an_answer_stops_by_itself_and_is_streamed(tuned: Path, asked: str):
    pieces: list[str] = []
    answer = Talker(tuned).answer(user(asked), GREEDY, pieces.append)
    assert (answer.text, answer.ended) == (ANSWERS[asked], "eos")
    assert "".join(pieces) == answer.text
    assert len(pieces) > 1


def test_the_answer_to_a_conversation_is_the_one_of_transformers(base: Path, tuned: Path):
    conversation = Conversation("a system")
    conversation.keep("the model?", "it falls")
    messages = conversation.asked("a layer?")
    tokenizer = AutoTokenizer.from_pretrained(tuned)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text.removeprefix("<s>") == (
        "### System:\na system\n\n### User:\nthe model?\n\n### Assistant:\nit falls"
        "### User:\na layer?\n\n### Assistant:\n"
    )
    ids = torch.tensor([[0, *tokenizer.encode(text.removeprefix("<s>"), add_special_tokens=False)]])
    model = AutoModelForCausalLM.from_pretrained(tuned, dtype=torch.float32)
    made = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    answer = Talker(tuned).answer(messages, Sampling(max_tokens=12, temperature=0))
    assert answer.text == tokenizer.decode(made, skip_special_tokens=True)
    assert answer.tokens == len(made)


def test_a_map_that_was_never_written_answers_as_the_one_that_was(base: Path, tmp_path: Path):
    dusk.scale(base, tmp_path / "deep", layers="0-2,1-3")
    written, unwritten = Talker(tmp_path / "deep"), Talker(base, layers="0-2,1-3")
    asked = user("the model learns")
    text = written.answer(asked, GREEDY).text
    assert unwritten.answer(asked, GREEDY).text == text
    assert Talker(base).answer(asked, GREEDY).text != text


def test_a_seed_makes_an_answer_twice_the_same(base: Path):
    talker = Talker(base)
    first, second, other = (
        talker.answer(user("the"), Sampling(20, 1.0, 1.0, seed)).text for seed in (1, 1, 2)
    )
    assert first == second != other


def test_the_oldest_turns_make_room():
    said = Conversation("s")
    said.keep("1", "2")
    said.keep("3", "4")
    messages = said.asked("5")

    def kept(limit: int) -> str:
        return "".join(message["content"] for message in fitting(messages, len, limit))

    assert (kept(6), kept(5), kept(3), kept(0)) == ("s12345", "s345", "s5", "s5")
    said.forget()
    assert [message["content"] for message in said.asked("6")] == ["s", "6"]


def test_a_conversation_goes_on_beyond_the_context(tuned: Path):
    conversation = Conversation()
    for _ in range(12):
        conversation.keep("the model learns deep", "a layer grows fast")
    answer = Talker(tuned).answer(conversation.asked(ASKED), GREEDY)
    assert answer.forgotten > 0
    assert answer.tokens <= 40
    with pytest.raises(DataError, match=r"the message has .* and the model's context is 192"):
        Talker(tuned).answer(user("the model " * 300), GREEDY)


def test_the_context_ends_an_answer(base: Path):
    asked = user(" ".join(["layer"] * 60))
    answer = Talker(base).answer(asked, Sampling(max_tokens=4000, temperature=0))
    assert answer.ended == "context"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"max_tokens": 0}, "max tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top-p is 0.0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_out_of_range(wrong: dict[str, Any], told: str):
    with pytest.raises(SettingError) as refused:
        Sampling(**wrong)
    assert told in str(refused.value)


class TestCommand:
    def test_one_prompt_prints_the_answer_alone(self, tuned: Path):
        done = chat(tuned, "--prompt", ASKED, "--greedy")
        assert (done.exit_code, done.stdout) == (0, f"{SAID}\n"), done.output

    def test_standard_input_is_a_prompt(self, tuned: Path):
        assert chat(tuned, "--greedy", stdin=f"{ASKED}\n").stdout == f"{SAID}\n"

    def test_several_models_side_by_side(self, tuned: Path, base: Path):
        done = chat(tuned, base, "--prompt", ASKED, "--greedy", "--max-tokens", 3)
        lines = done.stdout.splitlines()
        assert lines[:4] == [f"{tuned}:", SAID, "", f"{base}:"]
        assert f"{base} has no chat template: it continues your text" in done.stderr

    def test_the_result_for_machines(self, base: Path):
        done = chat(base, "--layers", "0-3", "--layers", "0-2,1-3", "--prompt", "the", "--seed", 1, "--json")
        assert done.stderr == f"{base} has no chat template: it continues your text.\n"
        found = json.loads(done.stdout)
        assert [answer["model"] for answer in found["answers"]] == [f"{base} 0-3", f"{base} 0-2,1-3"]
        assert {"text", "tokens", "seconds", "ended"} < set(found["answers"][0])

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["--prompt", " "], "the prompt is empty"),
            (["--prompt", "a", "--layers", "0-9"], "9"),
            (["--prompt", "a", "--layers", "0-9", "--layers", "0-3", "--layers", "x"], "- The layer map `x`"),
            (["--prompt", "a", "--temperature", "-1", "--top-p", "2"], "temperature is -1.0"),
            (["--prompt", "a", "--device", "cuda:77"], "device cuda:77: not on this machine"),
        ],
    )
    def test_what_is_wrong_is_told(self, base: Path, words: list[str], told: str):
        refused = chat(base, *words)
        assert isinstance(refused.exception, InputError)
        assert told in str(refused.exception)

    def test_a_map_is_of_one_model(self, base: Path):
        assert "one model" in str(chat(base, base, "--layers", "0-3", "--prompt", "a").exception)

    def test_a_conversation_outlives_a_message_that_is_too_long_and_an_answer_that_is_stopped(
        self, tuned: Path, base: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """Two models: what the second does not answer, neither remembers."""
        lines = iter([ASKED, "the " * 400, "the model", ASKED, "/quit"])
        monkeypatch.setattr("builtins.input", lambda _: next(lines))
        monkeypatch.setattr("dusk.cli.chat._piped", lambda: None)
        asked: list[tuple[str, list[Any]]] = []
        answer = Talker.answer

        def watched(self: Talker, messages: Any, *rest: Any) -> Any:
            asked.append((self.name, [message["content"] for message in messages]))
            if (
                len(asked) == 5
            ):  # the second model, third line; of the second line the first model alone was asked
                raise KeyboardInterrupt
            return answer(self, messages, *rest)

        monkeypatch.setattr(Talker, "answer", watched)
        done = chat(tuned, base, "--greedy", "--max-tokens", 20)
        assert done.exit_code == 0, done.output
        assert "the message has" in done.stderr
        assert "stopped; this turn is not kept" in done.stderr
        last = dict(asked[-2:])
        assert last[str(tuned)] == [ASKED, SAID, ASKED]
        assert last[str(base)][::2] == [ASKED, ASKED]

    def test_a_folder_that_is_not_there(self, tmp_path: Path):
        """Once, however many maps are asked of it."""
        for words in ([], ["--layers", "0-3", "--layers", "0-2,1-3"]):
            told = str(chat(tmp_path / "none", "--prompt", "a", *words).exception)
            assert told.startswith("There is no folder")

    def test_a_prompt_in_the_place_of_a_model(self, tuned: Path):
        assert "A prompt is given with --prompt" in str(chat(tuned, "the model?").exception)

    def test_a_solar_pro_whose_skips_cannot_be(self, tuned: Path, tmp_path: Path):
        dusk.scale(tuned, tmp_path / "solar", skips="1-2")
        config = json.loads((tmp_path / "solar/config.json").read_text())
        (tmp_path / "solar/config.json").write_text(json.dumps(config | {"bskcn_1": [2, 1], "bskcn_tv": [1]}))
        told = str(chat(tmp_path / "solar", "--prompt", "a").exception)
        assert "solar: the config's skip connections cannot be used" in told
        assert "bskcn_1 is out of order" in told
        assert "it is two numbers" in told
