"""The kinds of stage: to add one is to add a row.

A row names the settings' class and the library function, which is imported in the stage's own process
only, so that reading a recipe costs no torch.
"""

from dataclasses import dataclass
from typing import Literal

from dusk.recipe import stages
from dusk.recipe.settings import StageSettings


@dataclass(frozen=True)
class Kind:
    """One kind of stage.

    Attributes:
        name: as the recipe says it.
        settings: the class of its settings.
        function: `module:name` of what does the work; it is called with the settings as keywords (names of
            other stages replaced by paths) and `out`, and with `progress` and `threads` where it takes them.
        summary: one line for people.
        out: what `out` is: `whole`, a folder that the function creates and completes by itself, continuing
            where it was stopped; `folder`, an empty folder to write into; else the name of a file in a folder
            that is left to it from attempt to attempt.
        unit: what its progress counts, where the function does not say; the function's third word is then a
            message.
        ranks: whether it can be done in several processes, one a GPU.
        torch: whether it needs torch, and so waits for the process that has imported it.
        revision: raised when the same settings come to give another result, so that finished stages of
            older runs are done again.
    """

    name: str
    settings: type[StageSettings]
    function: str
    summary: str
    out: Literal["whole", "folder"] | str = "whole"
    unit: str = ""
    ranks: bool = False
    torch: bool = False
    revision: int = 1


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("model", stages.ModelStage, "dusk.recipe.model:model", "an existing checkpoint", out="folder"),
        Kind(
            "documentation",
            stages.DocumentationStage,
            "dusk.data.documentation:write_documentation",
            "text from installed packages",
            out="folder",
        ),
        Kind(
            "arithmetic",
            stages.ArithmeticStage,
            "dusk.data.arithmetic:write_arithmetic",
            "generated word problems",
            out="folder",
        ),
        Kind(
            "instructions",
            stages.InstructionsStage,
            "dusk.data.instructions:write_instructions",
            "instructions and preferences",
            out="folder",
        ),
        Kind(
            "convert",
            stages.ConvertStage,
            "dusk.data.convert:convert",
            "rows of published sets",
            unit="bytes",
        ),
        Kind(
            "decontaminate",
            stages.DecontaminateStage,
            "dusk.data.decontaminate:decontaminate",
            "rows without benchmarks",
            unit="bytes",
        ),
        Kind(
            "deduplicate",
            stages.DeduplicateStage,
            "dusk.data.deduplicate:deduplicate",
            "rows that stand once",
            unit="bytes",
        ),
        Kind(
            "filter",
            stages.FilterStage,
            "dusk.data.task_filter:filter_tasks",
            "rows without some tasks",
            unit="bytes",
        ),
        Kind(
            "math-instruct",
            stages.MathStage,
            "dusk.data.math_sets:math_instruct",
            "mathematics in other words",
            unit="rows",
        ),
        Kind(
            "math-alignment",
            stages.MathStage,
            "dusk.data.math_sets:math_alignment",
            "rephrased against original answers",
            unit="rows",
        ),
        Kind("scale", stages.ScaleStage, "dusk.scale:scale", "depth up-scaling", unit="bytes"),
        Kind(
            "pretrain",
            stages.PretrainStage,
            "dusk.train.pretrain:pretrain",
            "more pretraining",
            ranks=True,
            torch=True,
        ),
        Kind("sft", stages.SftStage, "dusk.train.sft:sft", "instruction tuning", ranks=True, torch=True),
        Kind("align", stages.AlignStage, "dusk.train.align:align", "stepwise DPO", ranks=True, torch=True),
        Kind("merge", stages.MergeStage, "dusk.merge:merge", "merging of weights", unit="bytes"),
        Kind(
            "evaluate",
            stages.EvaluateStage,
            "dusk.evaluate:evaluate",
            "evaluation",
            out="results.json",
            unit="items",
            torch=True,
        ),
        Kind(
            "judge",
            stages.JudgeStage,
            "dusk.evaluate.judged:judge_folders",
            "grades by a judge",
            out="grades.json",
            torch=True,
        ),
    )
}
