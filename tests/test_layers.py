"""Layer maps against the paper's numbers and against their own laws."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dusk.errors import LayerMapError
from dusk.layers import LayerMap, Seam, drops_in_phase

depths = st.integers(min_value=1, max_value=80)


@st.composite
def layer_maps(draw: st.DrawFn) -> LayerMap:
    layers = draw(depths)
    pairs = draw(st.lists(st.tuples(st.integers(0, layers - 1), st.booleans()), min_size=1, max_size=60))
    return LayerMap(tuple(s for s, _ in pairs), tuple(f for _, f in pairs), layers)


def test_depthwise_is_the_map_of_solar() -> None:
    layer_map = LayerMap.depthwise(32)
    assert layer_map.source == (*range(24), *range(8, 32))
    assert layer_map.spec() == "0-23,8-31"
    assert layer_map.seams == (Seam(target=24, before=23, after=8, jump=15),)
    assert layer_map.copies == tuple(range(24, 40))
    assert not any(layer_map.fresh)
    assert layer_map.warnings() == []


def test_the_demo_is_in_the_papers_proportions() -> None:
    assert LayerMap.depthwise(8).spec() == "0-5,2-7"


@pytest.mark.parametrize("drop", [-1, 16, 17, 32, 40])
def test_a_drop_out_of_range_is_refused(drop: int) -> None:
    with pytest.raises(LayerMapError, match=f"Dropping {drop} of 32"):
        LayerMap.depthwise(32, drop)


def test_a_drop_of_zero_is_allowed_and_warned_of() -> None:
    layer_map = LayerMap.depthwise(32, 0)
    assert layer_map == LayerMap.stack(32)
    assert layer_map.seams[0].jump == 31
    assert "jump of 31" in layer_map.warnings()[0]


def test_asymmetric() -> None:
    assert LayerMap.asymmetric(32, 6, 8).spec() == "0-25,8-31"
    for drops in [(-1, 2), (2, -1), (16, 16)]:
        with pytest.raises(LayerMapError, match="leaves no deeper model"):
            LayerMap.asymmetric(32, *drops)


def test_repeat_and_interleave() -> None:
    assert LayerMap.repeat(3).source == (0, 0, 1, 1, 2, 2)
    pro = LayerMap.interleave_identity(4, 2)
    assert pro.spec() == "0-1,1i,2-3,3i"
    assert pro.seams == ()
    assert pro.copies == (2, 5)
    with pytest.raises(LayerMapError, match="equal groups"):
        LayerMap.interleave_identity(8, 3)


def test_identity_copies_leave_the_base_in_place() -> None:
    layer_map = LayerMap.depthwise(32, 8).with_identity_copies()
    live = [s for s, f in zip(layer_map.source, layer_map.fresh, strict=True) if not f]
    assert live == list(range(32))
    assert layer_map.seams == ()


def test_a_spec_reports_all_its_faults_at_once() -> None:
    with pytest.raises(LayerMapError) as caught:
        LayerMap.parse("0-3,x,5-2,4-8,,1", 8)
    assert len(caught.value.problems) == 4
    with pytest.raises(LayerMapError, match="neither"):
        LayerMap.parse("0-²", 8)


@pytest.mark.parametrize(
    "data", [{}, {"source": "01"}, {"source": [0, 1.5], "base_layers": 2}, {"source": 3}]
)
def test_json_that_is_no_map_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(LayerMapError, match="no layer map"):
        LayerMap.from_json(data)


def test_maps_that_fit_no_model() -> None:
    with pytest.raises(LayerMapError) as caught:
        LayerMap((0, 9), (False,), 4)
    assert len(caught.value.problems) == 2
    with pytest.raises(LayerMapError, match="times"):
        LayerMap.stack(4, 0)


@given(layer_maps())
def test_spec_and_json_round_trip(layer_map: LayerMap) -> None:
    assert LayerMap.parse(layer_map.spec(), layer_map.base_layers) == layer_map
    assert LayerMap.from_json(json.loads(json.dumps(layer_map.to_json()))) == layer_map


@given(layer_maps())
def test_remap_agrees_with_the_source(layer_map: LayerMap) -> None:
    assert tuple(layer_map.remap(range(layer_map.base_layers))) == layer_map.source
    with pytest.raises(LayerMapError):
        layer_map.remap(range(layer_map.base_layers + 1))


@given(layer_maps())
def test_first_occurrences_and_copies_part_the_target(layer_map: LayerMap) -> None:
    firsts = set(range(len(layer_map))) - set(layer_map.copies)
    assert {layer_map.source[i] for i in firsts} == set(layer_map.source)
    assert len(firsts) == len(set(layer_map.source))


@given(depths, st.data())
def test_depthwise_laws(layers: int, data: st.DataObject) -> None:
    drop = data.draw(st.integers(0, (layers - 1) // 2))
    layer_map = LayerMap.depthwise(layers, drop)
    assert len(layer_map) == 2 * (layers - drop) > layers
    assert layer_map.dropped == ()
    assert [seam.jump for seam in layer_map.seams] == ([abs(layers - 2 * drop - 1)] if layers > 1 else [0])
    period = data.draw(st.integers(1, 8))
    assert layer_map.keeps_phase(period) == ((layers - 2 * drop) % period == 0)
    assert (drop in drops_in_phase(layers, period)) == layer_map.keeps_phase(period)


@given(depths, st.data())
def test_to_depth_hits_every_depth(layers: int, data: st.DataObject) -> None:
    target = data.draw(st.integers(layers + 1, 2 * layers))
    layer_map = LayerMap.to_depth(layers, target)
    assert len(layer_map) == target
    if target % 2 == 0:
        assert layer_map == LayerMap.depthwise(layers, layers - target // 2)
    for beyond in (layers, 2 * layers + 1):
        with pytest.raises(LayerMapError):
            LayerMap.to_depth(layers, beyond)
