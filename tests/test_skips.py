"""The rule of the skips without a tensor: which state reaches which layer, at any depth, under any map."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dusk.layers import LayerMap
from dusk.skips import PUBLISHED, Connection, Skips, config_problems

PUBLISHED_LISTS = {
    "bskcn_1": [12, 20, 32, 44],
    "bskcn_2": [20, 32],
    "bskcn_3": [16, 24, 36, 48],
    "bskcn_4": [28, 40],
    "bskcn_tv": [0.9, 0.8],
}


def by_the_rule(skips: Skips, layers: int) -> list[Connection]:
    """The rule run over the layers, with the layer's number in the place of its state."""
    lists = skips.to_config()
    slots: dict[int, int] = {}
    found = []
    for i in range(layers):
        for slot in (1, 2):
            if i in lists[f"bskcn_{slot}"]:
                slots[slot] = i
        for slot in (1, 2):
            if i in lists[f"bskcn_{slot + 2}"]:
                found.append(Connection(slots[slot], i, slot))
    return sorted(found)


def test_the_published_lists_resolve_as_the_facts_say() -> None:
    assert Skips.of(PUBLISHED_LISTS) == PUBLISHED
    assert PUBLISHED.to_config() == {k: v for k, v in PUBLISHED_LISTS.items() if k != "bskcn_tv"}
    pairs = [(c.store, c.use, c.slot) for c in PUBLISHED.connections()]
    assert pairs == [(12, 16, 1), (20, 24, 1), (20, 28, 2), (32, 36, 1), (32, 40, 2), (44, 48, 1)]
    assert by_the_rule(PUBLISHED, 64) == list(PUBLISHED.connections())
    crossed = [b for b in range(1, 64) if PUBLISHED.held(b)]
    assert crossed == [*range(13, 17), *range(21, 29), *range(33, 41), *range(45, 49)]
    assert PUBLISHED.held(22) == (1, 2)
    assert PUBLISHED.held(27) == (2,)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bskcn_1": [-1, 12, 20, 32, 44]}, "bskcn_1 names layer -1; layers are counted from 0"),
        ({"bskcn_3": [24, 16, 36, 48]}, "bskcn_3 is out of order"),
        ({"bskcn_4": [28, 28, 40]}, "none occurs twice"),
        ({"bskcn_2": "20"}, "bskcn_2 is '20'; it is a list of layers"),
        ({"bskcn_2": [20, 32.0]}, "it is a list of layers"),
        ({"bskcn_3": [8, 16, 24, 36, 48]}, "bskcn_3 uses slot 1 at layer 8 before bskcn_1 stores anything"),
        ({"bskcn_1": [12, 13, 20, 32, 44]}, "bskcn_1 stores at layer 12 what bskcn_3 never uses"),
        ({"bskcn_2": [20, 32, 50]}, "bskcn_2 stores at layer 50 what bskcn_4 never uses"),
        ({"bskcn_tv": [0.9, 0.8, 0.7]}, "it is two numbers, the weight in training and in inference"),
        ({"bskcn_tv": [0.9, 1.5]}, "bskcn_tv has 1.5; a weight is 0 to 1"),
        ({"bskcn_tv": [0.9, float("nan")]}, "bskcn_tv has nan"),
    ],
)
def test_a_faulty_list_is_told(change: dict[str, object], words: str) -> None:
    (problem,) = config_problems({**PUBLISHED_LISTS, **change})
    assert words in problem


def test_all_faults_at_once_and_none_without() -> None:
    assert config_problems(PUBLISHED_LISTS) == []
    assert config_problems({}) == []  # the class's defaults
    assert config_problems({key: [] for key in PUBLISHED_LISTS}) != []  # no weights
    assert config_problems({key: [] for key in PUBLISHED_LISTS if key != "bskcn_tv"}) == []
    both = config_problems({**PUBLISHED_LISTS, "bskcn_1": [20, 12], "bskcn_4": [-2], "bskcn_tv": [1]})
    assert len(both) == 3


def test_layers_beyond_the_last_are_told_only_where_the_depth_counts() -> None:
    assert config_problems(PUBLISHED_LISTS, 64) == []
    assert "bskcn_1 names layer 32, 44; the last is 31" in config_problems(PUBLISHED_LISTS, 32)


def test_another_depth() -> None:
    """Layer i becomes i * target / layers, halves up: half of everything at half the depth."""
    halved = {key: [i // 2 for i in lst] for key, lst in PUBLISHED.to_config().items()}
    assert PUBLISHED.scaled(64, 32).to_config() == halved
    assert PUBLISHED.scaled(64, 64) == PUBLISHED
    assert PUBLISHED.scaled(64, 48).to_config() == {
        "bskcn_1": [9, 15, 24, 33],
        "bskcn_2": [15, 24],
        "bskcn_3": [12, 18, 27, 36],
        "bskcn_4": [21, 30],
    }
    assert PUBLISHED.scaled(64, 24).to_config()["bskcn_3"] == [6, 9, 14, 18]  # 13.5 goes up
    with pytest.raises(
        ValueError, match="layers 24 and 28 would both be layer 5; they fit from 16 layers on"
    ):
        PUBLISHED.scaled(64, 12)
    assert [depth for depth in range(1, 80) if _fits(depth)] == [*range(16, 80)]


def _fits(depth: int) -> bool:
    try:
        return not config_problems(PUBLISHED.scaled(64, depth).to_config(), depth)
    except ValueError:
        return False


def test_pairs_by_hand() -> None:
    made = Skips.parse("2-4, 5-9,6-8,6-7", 10)
    assert made.to_config() == {"bskcn_1": [2, 5], "bskcn_2": [6], "bskcn_3": [4, 9], "bskcn_4": [7, 8]}
    assert Skips.parse("published", 64) == PUBLISHED
    assert (
        Skips.parse(PUBLISHED.spec(), 64).spec() == PUBLISHED.spec() == "12-16,20-24,20-28,32-36,32-40,44-48"
    )
    with pytest.raises(ValueError, match=r"`x` is no pair.*; 4-4: the use must.*; 7-12: the layers are 0-9"):
        Skips.parse("x,4-4,7-12", 10)
    with pytest.raises(ValueError, match="3-6: two other states are held at layer 3, and no third can be"):
        Skips.parse("1-9,2-8,3-6", 10)
    with pytest.raises(ValueError, match="is no pair"):
        Skips.parse("", 10)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 8)), min_size=1, max_size=5))
def test_what_is_parsed_obeys_the_rule(pairs: list[tuple[int, int]]) -> None:
    spec = ",".join(f"{store}-{store + length}" for store, length in pairs)
    try:
        made = Skips.parse(spec, 30)
    except ValueError:
        return  # more than two states at once
    assert config_problems(made.to_config(), 30) == []
    wanted = {(store, store + length) for store, length in pairs}
    assert {(c.store, c.use) for c in by_the_rule(made, 30)} == wanted


def test_a_solar_pro_that_is_itself_scaled() -> None:
    """SOLAR's map of 64 layers, 16 dropped: 0-47, then 16-63. What the seam cuts is lost on its side alone."""
    layer_map = LayerMap.depthwise(64)
    skips, lost = PUBLISHED.remapped(layer_map.source)
    pairs = [(c.store, c.use, c.slot) for c in skips.connections()]
    first = [(12, 16, 1), (20, 24, 1), (20, 28, 2), (32, 36, 1), (32, 40, 2)]  # 44-48 meets the seam
    second = [(store + 32, use + 32, slot) for store, use, slot in
              [(20, 24, 1), (20, 28, 2), (32, 36, 1), (32, 40, 2), (44, 48, 1)]]  # 12 was dropped  # fmt: skip
    assert pairs == first + second
    assert lost == []
    assert config_problems(skips.to_config(), 96) == []


def test_a_connection_that_no_stretch_keeps_is_named() -> None:
    skips, lost = PUBLISHED.remapped([*range(15), *range(13, 64)])
    assert [(c.store, c.use) for c in lost] == [(12, 16)]
    assert (12, 16) not in {(c.store, c.use) for c in skips.connections()}


def test_layers_repeated_in_place_stay_within_their_connection() -> None:
    skips, lost = Skips.parse("1-3", 4).remapped(LayerMap.repeat(4).source)
    assert ([(c.store, c.use) for c in skips.connections()], lost) == ([(2, 6)], [])


@given(st.lists(st.integers(0, 63), min_size=1, max_size=120))
def test_every_map_gives_lists_that_the_rule_accepts(source: list[int]) -> None:
    skips, _ = PUBLISHED.remapped(source)
    assert config_problems(skips.to_config(), len(source)) == []
    for connection in skips.connections():
        between = source[connection.store : connection.use + 1]
        assert between == sorted(between)
        assert (source[connection.store], source[connection.use]) in {
            (c.store, c.use) for c in PUBLISHED.connections()
        }
