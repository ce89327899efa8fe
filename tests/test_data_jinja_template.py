"""A tokenizer's own template, against what transformers renders and against the templates written down here."""

from dataclasses import replace
from typing import Any

import pytest

from dusk.data.encode import TextTokenizer, encode_chat, encode_pair
from dusk.data.jinja_template import JinjaTemplate
from dusk.data.templates import TEMPLATES, Segment
from dusk.errors import DataError
from test_data_encode import BOS, BOT, CONVERSATIONS, EOS, SYSTEM, USER, byte_level, in_transformers

MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] | trim + eos_token }}"
    "{% else %}{{ raise_exception('no system messages') }}{% endif %}{% endfor %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set told = '<<SYS>>\n' + "
    "messages[0]['content'] + '\n<</SYS>>\n\n' %}{% else %}{% set rest = messages %}{% set told = '' %}{% endif %}"
    "{% for m in rest %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + (told if loop.first else '') + "
    "m['content'] + ' [/INST]' }}{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
FORGETFUL = (  # earlier answers are left out once another turn follows, as thoughts are in some templates
    "{% for m in messages %}{% if m['role'] == 'user' or loop.last %}{{ m['role'] + ':' + m['content'] + '\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
NAMED = {"bos_token": BOS, "eos_token": EOS}


def own(jinja: str) -> JinjaTemplate:
    return JinjaTemplate(jinja, NAMED)


@pytest.mark.parametrize("name", list(TEMPLATES))
@pytest.mark.parametrize("conversation", list(CONVERSATIONS))
def test_of_our_own_jinja_the_segments_are_our_own(name: str, conversation: str) -> None:
    """Nothing is known but the jinja, and the same is found to be trained."""
    known = TEMPLATES[name]
    assert own(known.jinja).segments(CONVERSATIONS[conversation]) == known.segments(
        CONVERSATIONS[conversation]
    )


def test_where_an_answer_ends() -> None:
    two = [USER, {"role": "assistant", "content": " Yes. "}, USER, BOT]
    told = own(MISTRAL).segments(two)
    assert told == [
        Segment("<s>[INST] How many pens? [/INST]", False),
        Segment(" Yes.</s>", True),
        Segment("[INST] How many pens? [/INST]", False),
        Segment(f" {BOT['content']}</s>", True),
    ]
    assert own(LLAMA_2).segments([SYSTEM, USER, BOT]) == [
        Segment("<s>[INST] <<SYS>>\nBe short.\n<</SYS>>\n\nHow many pens? [/INST]", False),
        Segment(f" {BOT['content']} </s>", True),
    ]


@pytest.mark.parametrize("jinja", [MISTRAL, LLAMA_2], ids=["mistral", "llama 2"])
@pytest.mark.parametrize("adds_bos", [True, False])
def test_ids_are_those_of_transformers(jinja: str, adds_bos: bool) -> None:
    """BOS and EOS once each, whether the tokenizer or the template writes them."""
    inner = byte_level(bos=adds_bos)
    tokenizer: Any = in_transformers(inner, replace(TEMPLATES["solar"], jinja=jinja))
    found = encode_chat([USER, BOT], TextTokenizer(tokenizer), own(jinja))
    assert found.ids == tokenizer.apply_chat_template([USER, BOT], return_dict=False)
    prompt = tokenizer.apply_chat_template([USER], add_generation_prompt=True, return_dict=False)
    assert found.ids[: found.trained.index(True)] == prompt
    assert found.ids.count(tokenizer.bos_token_id) == found.ids.count(tokenizer.eos_token_id) == 1


def test_both_answers_of_a_pair() -> None:
    inner = byte_level()
    tokenizer = TextTokenizer(in_transformers(inner, TEMPLATES["solar"]))
    pair = encode_pair([USER], "Seven.", "Eight.", tokenizer, own(MISTRAL))
    texts = [inner.decode(ids, skip_special_tokens=False) for ids in (pair.chosen_ids, pair.rejected_ids)]
    assert texts == [" Seven.</s>", " Eight.</s>"]


def test_templates_that_cannot_be_used() -> None:
    with pytest.raises(DataError, match="refuses a conversation: no system messages"):
        own(MISTRAL).segments([SYSTEM, USER, BOT])
    own(FORGETFUL).segments([USER, BOT])
    with pytest.raises(DataError, match="in another way once") as caught:
        own(FORGETFUL).segments([USER, BOT, USER, BOT])
    assert "--template: solar, alpaca, chatml" in str(caught.value)
    with pytest.raises(DataError, match="without a message"):
        own(MISTRAL).segments([])
