"""Templates against transformers' rendering, and token ids against what a server would see."""

from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from dusk.data.encode import (
    Example,
    TextTokenizer,
    branches,
    encode_chat,
    encode_chats,
    encode_pair,
    encode_text,
    too_long,
)
from dusk.data.templates import ALPACA, CHATML, SOLAR, TEMPLATES, Template, template
from dusk.errors import DataError, SettingError

TEXTS = ["### User:\nHow many pens?\n\n### Assistant:\nTom has 3 + 4 = 7 pens.\n#### 7", "user system\n"] * 5
BOS, EOS = "<s>", "</s>"

USER = {"role": "user", "content": "How many pens?"}
BOT = {"role": "assistant", "content": "Tom has 7 pens.\n#### 7"}
SYSTEM = {"role": "system", "content": "Be short."}
CONVERSATIONS = {
    "one turn": [USER, BOT],
    "system": [SYSTEM, USER, BOT],
    "empty system": [{"role": "system", "content": ""}, USER, BOT],
    "two turns": [USER, BOT, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}],
    "open": [USER, BOT, {"role": "user", "content": "Sure?"}],
}


def byte_level(bos: bool = True, specials: tuple[str, ...] = ()) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=[BOS, EOS, *specials], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
        )
    return tokenizer


def sentencepiece_like() -> Tokenizer:
    """As Llama's: a blank before the text, no other white space marked."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=["<unk>", BOS, EOS], show_progress=False, max_token_length=4
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def in_transformers(tokenizer: Tokenizer, chat: Template, **special: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokens = {"bos_token": BOS, "eos_token": EOS, **special}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=chat.jinja, **tokens)


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    inner = byte_level()
    return TextTokenizer(inner, eos=inner.token_to_id(EOS))


def trained_text(example: Example, tokenizer: Tokenizer) -> str:
    ids = [token for token, trained in zip(example.ids, example.trained, strict=True) if trained]
    return str(tokenizer.decode(ids, skip_special_tokens=False))


@pytest.mark.parametrize("name", list(TEMPLATES))
@pytest.mark.parametrize("conversation", list(CONVERSATIONS))
def test_segments_are_what_the_jinja_renders(name: str, conversation: str) -> None:
    chat, messages = template(name), CONVERSATIONS[conversation]
    reference = in_transformers(byte_level(), chat)
    rendered = reference.apply_chat_template(messages, tokenize=False)
    assert "".join(segment.text for segment in chat.segments(messages)) == rendered
    waiting = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    rendered = reference.apply_chat_template(waiting, tokenize=False, add_generation_prompt=True)
    assert chat.prompt(waiting) == rendered


def test_solar_is_rendered_as_its_card_shows() -> None:
    messages = [{"role": "user", "content": "Hello?"}]
    assert SOLAR.prompt(messages) == "### User:\nHello?\n\n### Assistant:\n"


def test_segments_mark_the_answers() -> None:
    for chat, end in ((SOLAR, ""), (ALPACA, ""), (CHATML, "<|im_end|>")):
        trained = [s.text for s in chat.segments(CONVERSATIONS["two turns"]) if s.trained]
        assert trained == [f"Tom has 7 pens.\n#### 7{end}", f"Yes.{end}"]


def test_alpaca_begins_with_its_preamble_or_the_system_message() -> None:
    assert ALPACA.prompt([USER]).startswith("Below is an instruction that describes a task. Write")
    assert ALPACA.prompt([SYSTEM, USER]).startswith("Be short.\n\n### Instruction:\nHow many")


def test_unknown_templates_and_roles() -> None:
    with pytest.raises(SettingError) as caught:
        template("Solaris")
    assert caught.value.remedy == "Did you mean solar? There are solar, alpaca, chatml and tokenizer."
    with pytest.raises(DataError, match="'tool'"):
        SOLAR.segments([{"role": "tool", "content": "x"}])
    with pytest.raises(DataError, match="without a message"):
        SOLAR.segments([])


def test_documents_stand_between_bos_and_eos(tokenizer: TextTokenizer) -> None:
    inner = byte_level()
    example = encode_text("Tom has 7 pens.", tokenizer)
    assert example.ids == [*inner.encode("Tom has 7 pens.").ids, inner.token_to_id(EOS)]
    assert example.ids[0] == inner.token_to_id(BOS)
    assert example.trained == [False] + [True] * (len(example.ids) - 1)


def test_without_a_bos_nothing_is_put_in_front() -> None:
    inner = byte_level(bos=False)
    ids = encode_text("Tom", TextTokenizer(inner, eos=1)).ids
    assert ids == [*inner.encode("Tom").ids, 1]


@pytest.mark.parametrize("chat", [SOLAR, ALPACA, CHATML], ids=lambda chat: chat.name)
def test_the_prompt_is_what_a_server_sees(chat: Template) -> None:
    inner = byte_level()
    tokenizer = TextTokenizer(in_transformers(inner, chat))
    messages = CONVERSATIONS["system"]
    example = encode_chat(messages, tokenizer, chat)
    server = in_transformers(inner, chat).apply_chat_template(messages[:-1], add_generation_prompt=True)
    prompt = [inner.token_to_id(BOS), *server["input_ids"]]
    begin = example.trained.index(True)
    assert example.ids[:begin] == prompt
    assert trained_text(example, inner) == f"{BOT['content']}{chat.answer_end}{EOS}"


def test_each_answer_is_followed_by_one_eos(tokenizer: TextTokenizer) -> None:
    example = encode_chat(CONVERSATIONS["two turns"], tokenizer, SOLAR)
    assert trained_text(example, byte_level()) == f"Tom has 7 pens.\n#### 7{EOS}Yes.{EOS}"
    assert example.ids.count(tokenizer.eos) == 2
    assert example.trained[-1]


def test_chatml_whose_end_of_turn_is_the_eos_gets_no_second() -> None:
    inner = byte_level(specials=("<|im_start|>", "<|im_end|>"))
    tokenizer = TextTokenizer(in_transformers(inner, CHATML, eos_token="<|im_end|>"))
    assert tokenizer.eos == inner.token_to_id("<|im_end|>")
    example = encode_chat([USER, BOT], tokenizer, CHATML)
    assert trained_text(example, inner) == f"{BOT['content']}<|im_end|>"


def test_many_at_once_are_the_same_as_one_by_one(tokenizer: TextTokenizer) -> None:
    chats = list(CONVERSATIONS.values())
    together = encode_chats(chats, tokenizer, ALPACA)
    assert together == [encode_chat(messages, tokenizer, ALPACA) for messages in chats]


def test_what_follows_the_last_answer_is_left_out(tokenizer: TextTokenizer) -> None:
    opened = encode_chat(CONVERSATIONS["open"], tokenizer, SOLAR)
    assert opened == encode_chat(CONVERSATIONS["one turn"], tokenizer, SOLAR)
    with pytest.raises(DataError, match="without an answer"):
        encode_chat([USER], tokenizer, SOLAR)


def test_pairs_share_their_prompt(tokenizer: TextTokenizer) -> None:
    example = encode_pair(CONVERSATIONS["open"], "Yes.", "No!", tokenizer, SOLAR)
    prefix, *answers = branches(example)
    for answer, made in zip(("Yes.", "No!"), answers, strict=True):
        messages = [*CONVERSATIONS["open"], {"role": "assistant", "content": answer}]
        whole = encode_chat(messages, tokenizer, SOLAR)
        assert prefix.ids + made.ids == whole.ids
        assert trained_text(made, byte_level()) == f"{answer}{EOS}"
        assert made.trained.index(True) == 1  # what predicts an answer's first token is in its branch
    assert not any(prefix.trained)
    assert example.chosen_ids[-1] == example.rejected_ids[-1] == tokenizer.eos


def test_text_that_follows_gets_no_blank_in_front() -> None:
    inner = sentencepiece_like()
    tokenizer = TextTokenizer(inner, eos=inner.token_to_id(EOS))
    example = encode_chat([USER, BOT], tokenizer, SOLAR)
    pieces = [
        inner.id_to_token(i) for i, trained in zip(example.ids, example.trained, strict=True) if trained
    ]
    assert "".join(pieces) == f"Tom▁has▁7▁pens.\n####▁7{EOS}"
    assert inner.id_to_token(example.ids[0]).startswith("▁")
    pair = encode_pair([USER], BOT["content"], "7", tokenizer, SOLAR)
    assert pair.prompt_ids + pair.chosen_ids == example.ids
    assert inner.decode(pair.rejected_ids) == "7"
    assert inner.id_to_token(pair.rejected_ids[0]) == "7"


def test_truncation_and_padding_of_the_tokenizer_are_not_used() -> None:
    inner = byte_level()
    inner.enable_truncation(4)
    inner.enable_padding(length=64)
    example = encode_text(TEXTS[0], TextTokenizer(inner, eos=1))
    assert inner.decode(example.ids) == TEXTS[0]
    assert inner.truncation is not None  # the caller's own is left as it was


def test_tokenizers_that_cannot_be_used() -> None:
    with pytest.raises(DataError, match="EOS"):
        TextTokenizer(byte_level())
    with pytest.raises(DataError, match="no fast tokenizer"):
        TextTokenizer(object(), eos=1)


def test_what_does_not_fit_is_named_and_nothing_is_cut(tokenizer: TextTokenizer) -> None:
    example = encode_chat([USER, BOT], tokenizer, SOLAR)
    prompt, whole = example.trained.index(True), len(example.ids)
    assert too_long(example, whole) is None
    assert too_long(example, whole - 1) == "answer does not fit the context"
    assert too_long(example, prompt) == "prompt longer than the context"
    pair = encode_pair([USER], "a", BOT["content"], tokenizer, SOLAR)
    assert too_long(pair, whole) is None
    assert too_long(pair, whole - 1) == "answer does not fit the context"


def test_added_tokens_in_texts_are_single_ids() -> None:
    inner = byte_level()
    inner.add_special_tokens([AddedToken("<|im_start|>", special=True)])
    tokenizer = TextTokenizer(inner, eos=1)
    assert encode_chat([USER, BOT], tokenizer, CHATML).ids.count(inner.token_to_id("<|im_start|>")) == 2
