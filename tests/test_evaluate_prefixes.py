"""The token-prefix tree against what it stands for, and its log-likelihoods against transformers, one by one."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from dusk.evaluate.branching import Branching, can_branch
from dusk.evaluate.prefix_tree import Scored, count_tokens, prefix_tree

torch.set_num_threads(1)

sequences = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=8).flatmap(
        lambda inputs: st.lists(st.integers(0, 2), min_size=1, max_size=len(inputs)).map(
            lambda targets: Scored(inputs, targets)
        )
    ),
    max_size=12,
)


def _paths(nodes, before=()):
    for node in nodes:
        assert node.begin == len(before)
        yield node, (*before, *node.tokens)
        yield from _paths(node.children, (*before, *node.tokens))


@given(sequences, st.sampled_from([0, 1 / 16, 0.5, 1]))
@settings(max_examples=300, deadline=None)
def test_every_target_is_predicted_once_after_its_own_beginning(scored, worthwhile):
    tree = prefix_tree(scored, worthwhile)
    predicted = {number: {} for number in range(len(scored))}
    for node, path in _paths(tree):
        assert node.tokens
        for share in node.shares:
            inputs = scored[share.sequence].inputs
            for step, target in enumerate(share.targets):
                place = node.begin + share.offset + step
                assert path[: place + 1] == tuple(inputs[: place + 1])
                assert predicted[share.sequence].setdefault(place, target) is target
    for number, each in enumerate(scored):
        places = range(len(each.inputs) - len(each.targets), len(each.inputs))
        assert predicted[number] == dict(zip(places, each.targets, strict=True))
    distinct = {tuple(each.inputs) for each in scored}
    assert count_tokens(tree) <= sum(map(len, distinct))
    if worthwhile == 0:  # everything alike is shared: as many tokens as there are distinct beginnings
        assert count_tokens(tree) == len({each[:end] for each in distinct for end in range(1, len(each) + 1)})


def test_a_few_words_alike_are_not_worth_a_node():
    scored = [Scored([7, 7, 7, *range(10 * number, 10 * number + 90)], [1]) for number in range(5)]
    assert count_tokens(prefix_tree(scored)) == 5 * 93
    assert count_tokens(prefix_tree([Scored([*range(90), 100 + number], [1]) for number in range(5)])) == 95


def _questions(vocabulary=96):
    """Three subjects with shots, questions of several lengths, and choices of one token or of many."""
    draw = random.Random(0)

    def tokens(low, high):
        return [draw.randrange(vocabulary) for _ in range(draw.randint(low, high))]

    for _ in range(3):
        shots = tokens(30, 40)
        for number in range(4):
            context = shots + tokens(5, 15)
            for choice in range(3):
                continuation = tokens(1, 6) if number else [choice]
                yield Scored((context + continuation)[:-1], continuation)


def _by_hand(model, scored):
    with torch.no_grad():
        logs = model(torch.tensor([scored.inputs])).logits[0].log_softmax(-1)[-len(scored.targets) :]
    targets = torch.tensor(scored.targets)
    return logs.gather(1, targets[:, None]).sum().item(), bool((logs.argmax(-1) == targets).all())


def _model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("variant", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(("tokens", "rows"), [(100_000, None), (100_000, 3), (150, None), (1, None)])
def test_log_likelihoods_are_those_of_transformers(model_folder, variant, tokens, rows):
    model = _model(model_folder(variant))
    scored = list(_questions())
    scored.append(Scored(scored[0].inputs, _greedy(model, scored[0].inputs)))
    assert can_branch(model, 128)
    done = []
    found = Branching(model, model.device, tokens, rows=rows, on_done=done.append).score(scored)
    expected = [_by_hand(model, each) for each in scored]
    assert [each.log_likelihood for each in found] == pytest.approx([log for log, _ in expected], abs=1e-4)
    assert [each.greedy for each in found] == [greedy for _, greedy in expected]
    assert found[-1].greedy
    assert sorted(done) == list(range(len(scored)))


def _greedy(model, inputs):
    with torch.no_grad():
        return [model(torch.tensor([inputs])).logits[0, -1].argmax().item()]


def test_batches_shrink_where_memory_runs_out(model_folder, monkeypatch):
    model = _model(model_folder("llama"))
    scored = list(_questions())
    expected = Branching(model, model.device, 100_000).score(scored)
    forward, refused = model.forward, []

    def small_memory(input_ids, **options):
        if input_ids.shape[0] > 2:
            refused.append(input_ids.shape[0])
            raise torch.OutOfMemoryError
        return forward(input_ids, **options)

    monkeypatch.setattr(model, "forward", small_memory)
    done = []
    shrinking = Branching(model, model.device, 100_000, on_done=done.append)
    found = shrinking.score(scored)
    assert refused
    assert shrinking.tokens < 100_000
    logs = [each.log_likelihood for each in expected]
    assert [each.log_likelihood for each in found] == pytest.approx(logs, abs=1e-5)
    assert sorted(done) == list(range(len(scored)))
    monkeypatch.setattr(model, "forward", lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(torch.OutOfMemoryError):
        Branching(model, model.device, 100_000).score(scored)


def test_padding_never_stands_beyond_the_context():
    """GPT-2 learns a vector for each position: one beyond the last is an error."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.3, bos_token_id=0, eos_token_id=0)).eval()
    shared, short, long = list(range(12)), list(range(20, 26)), list(range(30, 40))
    ends = [[*short, *range(begin, begin + 6)] for begin in (0, 40)] + [[*long, 1, 2], [*long, 3]]
    scored = [Scored([*shared, *end], [1]) for end in ends]  # batched: after 18 tokens six, after 22 two
    found = Branching(model, model.device, 100_000).score(scored)
    expected = [_by_hand(model, each)[0] for each in scored]
    assert [each.log_likelihood for each in found] == pytest.approx(expected, abs=1e-5)


def test_a_cache_that_forgets_does_not_branch(model_folder):
    """A sliding window of 8: fine for texts within it, not beyond."""
    model = _model(model_folder("mistral"))
    assert can_branch(model, 7)
    assert not can_branch(model, 8)
