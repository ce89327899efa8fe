"""What the tests of Solar Pro do in two processes: torchrun --nproc-per-node 2 tests/solar_two_ranks.py FOLDER.

Training in shards (FSDP2) through the command, and one step of a pipeline whose boundary lies within two skips.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

BOUNDARY = 3  # skips 1-4 and 2-5 are both held there
SKIPS = "1-4,2-5"
TRAINING: dict[str, Any] = {
    "batch_tokens": 200,
    "micro_batch_tokens": 100,
    "learning_rate": 1e-3,
    "threads": 1,
}


def pipeline_loss(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def pipeline(folder: Path) -> None:
    from dusk.solar_pro.stages import stages
    from solar_models import solar_model, tokens_of

    rank = dist.get_rank()
    model = solar_model(SKIPS, 6, sliding_window=5).train()
    tokens = tokens_of(model, 4, 9)
    part = stages(model, [BOUNDARY])[rank]
    schedule = ScheduleGPipe(PipelineStage(part, rank, 2, torch.device("cpu")), 2, loss_fn=pipeline_loss)
    losses: list[torch.Tensor] = []
    if rank == 0:
        schedule.step(tokens)
    else:
        schedule.step(target=tokens, losses=losses)
    gradients = {name: parameter.grad for name, parameter in part.named_parameters()}
    torch.save({"gradients": gradients, "losses": losses}, folder / f"pipeline-{rank}.pt")


def main(folder: Path) -> None:
    from dusk.train import pretrain as module
    from dusk.train.align import align

    fit, seen = module.fit, {}

    def watched(model: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        seen.update({name: type(tensor.data).__name__ for name, tensor in model.named_parameters()})
        return fit(model, *args, **kwargs)

    pipeline(folder)
    module.fit = watched
    module.pretrain(folder / "solar", folder / "two-pretrain", data=folder / "text.jsonl", **TRAINING)
    align(folder / "solar", folder / "two-align", steps=[folder / "pairs.jsonl"], **TRAINING)
    (folder / f"shards-{dist.get_rank()}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    dist.init_process_group("gloo")
    main(Path(sys.argv[1]))
    dist.destroy_process_group()
