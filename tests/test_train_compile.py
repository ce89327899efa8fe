"""Compiled layers against layers as they are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from dusk.errors import SettingError
from dusk.train.pretrain import pretrain
from train_models import metrics, save_base, text_file

pytestmark = [  # torch's own, of its compiler
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]

SETTINGS: dict[str, Any] = {"batch_tokens": 128, "sequence_length": 64, "learning_rate": 1e-2, "threads": 1}


def test_losses_are_those_of_layers_as_they_are_and_all_layers_share_their_graphs(tmp_path: Path):
    base, data = save_base(tmp_path / "base", num_hidden_layers=3), text_file(tmp_path)
    given = {"data": data, "eval_data": data, "tokens": 1024, **SETTINGS}
    pretrain(base, tmp_path / "plain", **given)
    torch._dynamo.reset()
    counters.clear()
    pretrain(base, tmp_path / "compiled", **given, compile=True)
    plain, compiled = metrics(tmp_path / "plain"), metrics(tmp_path / "compiled")
    assert len(plain) == len(compiled) > 8
    for one, other in zip(plain, compiled, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    # four parts around attention, measured and trained: not once a layer, nor once a length
    assert counters["stats"]["unique_graphs"] == 8


def test_without_a_compiler_it_is_said_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none_found() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none_found)
    with pytest.raises(SettingError, match=r"C\+\+ compiler"):
        pretrain(
            save_base(tmp_path / "base"),
            tmp_path / "out",
            data=text_file(tmp_path),
            compile=True,
            **SETTINGS,
        )
    assert not (tmp_path / "out").exists()
