"""The settings of each kind of stage: one class a kind, named as its library function's parameters.

They are also what the command line's flags are made of. Ranges are checked here, before hours of work;
what a setting does, and its default, stands with the library function.
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from dusk.recipe.settings import (
    Count,
    Data,
    File,
    Model,
    NotNegative,
    OverDepth,
    Positive,
    Seed,
    Share,
    StageSettings,
    Suite,
)


class ModelStage(StageSettings):
    """An existing checkpoint that the other stages start from."""

    path: str = Field(description="folder, hub id (name[@revision]), dusk:constant or dusk:decayed")


class DocumentationStage(StageSettings):
    """The documentation of the installed packages, as text in three parts that do not overlap."""

    packages: list[str] | None = Field(None, description="packages to read; stdlib is the standard library")
    workers: int | None = Field(None, ge=1, description="processes that read")


class ArithmeticStage(StageSettings):
    """Generated word problems with worked answers, in levels of difficulty."""

    problems: int | None = Field(None, ge=1, description="problems to train on")
    evaluation_problems: int | None = Field(None, ge=1, description="problems to evaluate on")
    seed: Seed | None = Field(None, description="seed of the problems")


class InstructionsStage(StageSettings):
    """Instructions and preference pairs made of documentation and arithmetic."""

    data: list[File] = Field(min_length=1, description="documents and problems to make them of")
    rows: int | None = Field(None, ge=1, description="rows of each set at most")
    seed: Seed | None = Field(None, description="seed of the choice of rows")


class DataStage(StageSettings):
    """What every kind of work on data can be told."""

    data: list[Data] = Field(min_length=1, description="files, or data sets of the hub (owner/name[:files])")
    skip_bad: bool | None = Field(None, description="leave bad rows out, counted, instead of refusing them")
    license: str | None = Field(None, description="licence of the data, where their folders do not state it")
    workers: int | None = Field(None, ge=1, description="processes [one a processor]")


class ConvertStage(DataStage):
    """Rows of training made of the rows of published sets."""

    source: str | None = Field(
        None, description="whose form the rows have, such as open-orca [told by fields]"
    )
    rows: Count | Literal["solar"] | None = Field(
        None, description="rows at most; solar is as many as SOLAR used of the source"
    )
    seed: Seed | None = Field(None, description="seed of the sample and of drawn answers")
    mask_pii: bool | None = Field(None, description="mask e-mail addresses and telephone numbers")


class DecontaminateStage(DataStage):
    """Rows without those that overlap with benchmarks."""

    against: list[Data] = Field(min_length=1, description="benchmarks: files, or data sets of the hub")
    preset: Literal["gpt3", "tulu3"] | None = Field(None, description="whose convention of overlap [gpt3]")
    words: int | None = Field(None, ge=1, description="length of a run of words [the preset's]")
    item_share: Share | None = Field(
        None, description="share of an item above which it matches [the preset's]"
    )
    set_share: Share | None = Field(
        None, description="share of a set's items above which it counts [the preset's]"
    )
    common_rows: int | None = Field(None, ge=0, description="rows above which a run is common [the preset's]")


class DeduplicateStage(DataStage):
    """Rows without those that stand further ahead, exactly or nearly."""

    method: Literal["exact", "minhash"] | None = Field(None, description="exact, or near ones too [minhash]")
    threshold: Share | None = Field(None, description="likeness from which rows are near duplicates")
    prompts_only: bool | None = Field(None, description="compare what is asked alone")


class FilterStage(DataStage):
    """Rows without those of FLAN tasks that belong to benchmarks."""

    tasks: list[str] | None = Field(None, description="names of tasks [those that SOLAR left out]")
    flan: list[Data] | None = Field(None, description="tables of FLAN, with tasks and questions")
    undecided: Literal["keep", "leave-out"] | None = Field(
        None, description="rows whose task nothing tells [keep]"
    )


class MathStage(StageSettings):
    """Questions and answers of mathematics in other words."""

    data: list[Data] = Field(
        min_length=1, description="questions with answers: files, or data sets of the hub"
    )
    source: str | None = Field(None, description="whose form the rows have, such as math [told by fields]")
    seed: Seed | None = Field(None, description="seed of the wording")
    near_duplicates: Share | None = Field(None, description="likeness from which questions are left out")
    server: str | None = Field(
        None, description="URL of an OpenAI-compatible server (…/v1) [rephrased by rule]"
    )
    model: str | None = Field(None, description="the model that the server is asked for")
    prompts: File | None = Field(None, description="folder with question.txt and answer.txt [ours]")
    concurrency: int | None = Field(None, ge=1, description="requests at a time")
    requests_per_minute: Positive | None = Field(None, description="how often at most a request begins")
    timeout_seconds: Positive | None = Field(None, description="how long an answer may take")
    temperature: NotNegative | None = Field(None, description="of the server's sampling")
    max_tokens: Count | None = Field(None, description="tokens of an answer at most")
    key_variable: str | None = Field(None, description="environment variable with the key [OPENAI_API_KEY]")
    price_in: NotNegative | None = Field(None, description="money per million tokens that are sent")
    price_out: NotNegative | None = Field(None, description="money per million tokens that are answered")
    skip_bad: bool | None = Field(None, description="leave bad rows out, counted, instead of refusing them")
    license: str | None = Field(None, description="licence of the data, where their folders do not state it")


class ScaleStage(StageSettings):
    """A deeper model of a shallower one, by copying its layers."""

    base: Model = Field(description="the model to scale")
    drop: int | None = Field(None, ge=0, description="layers left out at each side of the seam [n/4]")
    to: int | None = Field(None, ge=1, description="number of layers of the result")
    params: str | None = Field(None, description="size of the result, such as 11B")
    layers: str | None = Field(None, description="the layers by name, such as 0-23,8-31")
    fresh: Literal["copy", "identity"] | None = Field(None, description="how repeated layers start [copy]")
    rule: Literal["depthwise", "stack", "in-place", "llama-pro"] | None = Field(
        None, description="the rule of growth for that size [depthwise]"
    )
    architecture: Literal["llama", "solar-pro"] | None = Field(None, description="write it as")
    skips: str | None = Field(None, description="skip connections: published, none, or 3-5,6-9")
    skip_weights: list[Share] | None = Field(
        None, min_length=2, max_length=2, description="weight of a stored state in training and inference"
    )
    pad_vocabulary: int | None = Field(None, ge=1, description="rows of the vocabulary, new ones zero")
    with_remote_code: bool | None = Field(None, description="write Solar Pro's classes into the folder")
    digest: bool | None = Field(None, description="write digests of every byte, which verify compares with")
    allow_pickle: bool | None = Field(None, description="read .bin files, too; runs nothing in them")

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        named = [key for key in ("drop", "to", "params", "layers") if getattr(self, key) is not None]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} each say the size; give one")
        return self


class TrainingStage(StageSettings):
    """What every kind of training can be told."""

    tokens: Count | None = Field(None, description="tokens to train on, such as 2M")
    epochs: int | None = Field(None, ge=1, description="passes over the data")
    sequence_length: Count | None = Field(None, description="tokens of a row")
    batch_tokens: Count | None = Field(None, description="tokens of an update")
    micro_batch_tokens: Count | None = Field(None, description="tokens of one forward pass")
    optimizer: Literal["adamw", "adamw-bf16", "muon"] | None = Field(
        None, description="adamw, its states in bf16, or muon for the layers' matrices"
    )
    learning_rate: Positive | None = Field(None, description="peak learning rate")
    schedule: Literal["constant", "cosine", "linear", "wsd"] | None = Field(
        None, description="how the learning rate goes"
    )
    warmup: Share | None = Field(None, description="share of the updates that warm up")
    decay: Share | None = Field(None, description="share of the updates that decay (wsd)")
    weight_decay: NotNegative | None = Field(None, description="weight decay of AdamW")
    beta1: Share | None = Field(None, description="decay of the gradient's mean (AdamW)")
    beta2: Share | None = Field(None, description="decay of the gradient's square (AdamW)")
    grad_clip: NotNegative | None = Field(None, description="largest norm of the gradient")
    seed: Seed | None = Field(None, description="seed of the order and of new weights")
    precision: Literal["fp32", "bf16"] | None = Field(None, description="type of the arithmetic")
    weights: Literal["fp32", "bf16"] | None = Field(None, description="type that weights are trained in")
    update_in_backward: bool | None = Field(
        None, description="use each gradient up as it comes (adamw-bf16, one pass an update, grad_clip 0)"
    )
    save_dtype: Literal["source", "fp32", "bf16"] | None = Field(None, description="type of the result")
    gradient_checkpointing: bool | None = Field(None, description="less memory for more computation")
    compile: bool | None = Field(None, description="compile the layers (torch.compile)")
    train: Literal["all", "new"] | None = Field(None, description="all layers, or those that scaling added")
    seam_decay: Share | None = Field(None, description="factor of the rate a layer away from the seam")
    lora_rank: int | None = Field(None, ge=1, description="train adapters of this rank instead of weights")
    lora_alpha: Positive | None = Field(None, description="scale of the adapters times the rank [2 x rank]")
    lora_targets: str | None = Field(None, description="layers to adapt, such as q_proj,v_proj [all linear]")
    keep_adapter: bool | None = Field(None, description="leave the adapters too, as peft has them")
    spike_guard: Positive | None = Field(None, description="skip updates so many deviations off")
    report_to: str | None = Field(None, description="trackers: trackio, wandb, tensorboard")
    eval_every_tokens: Count | None = Field(None, description="tokens between two measurements")
    eval_tokens: Count | None = Field(None, description="held-out tokens that are measured at most")
    save_every_seconds: Positive | None = Field(None, description="seconds between points to continue from")
    token_cache: str | None = Field(None, description="folder to keep tokens in, shared by ranks and runs")
    threads: int | None = Field(None, ge=1, description="processor threads")


class PretrainStage(TrainingStage):
    """Continued pretraining (or, with `from_scratch`, a new model)."""

    model: Model | None = Field(None, description="the model to continue")
    from_scratch: File | None = Field(None, description="config.json of a new model, instead of a model")
    data: list[File] = Field(min_length=1, description="text to train on")
    shares: list[float] | None = Field(None, description="share of each file of data, such as 0.9,0.1")
    eval_data: list[File] | None = Field(None, description="held-out text, measured along the way")

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if (self.model is None) == (self.from_scratch is None):
            raise ValueError("give either model or from_scratch")
        return self


class SftStage(TrainingStage):
    """Instruction tuning: the loss falls on the answers alone."""

    model: Model = Field(description="the model to tune")
    data: list[File] = Field(min_length=1, description="instructions with answers")
    eval_data: list[File] | None = Field(None, description="held-out instructions, measured along the way")
    template: str | None = Field(
        None, description="chat template: solar, alpaca, chatml, or tokenizer (the model's own)"
    )


class AlignStage(TrainingStage):
    """Stepwise DPO: each file of preference pairs is one step, which refers to the step before."""

    model: Model = Field(description="the model to align")
    steps: list[File] = Field(min_length=1, description="preference pairs; one file is one step")
    template: str | None = Field(
        None, description="chat template: solar, alpaca, chatml, or tokenizer (the model's own)"
    )
    preset: Literal["zephyr-paper", "zephyr-recipe"] | None = Field(
        None, description="settings of Zephyr, by its paper or its published recipe"
    )
    beta: Positive | None = Field(None, description="strength of the reference")
    batch_pairs: int | None = Field(None, ge=1, description="pairs of an update, in place of its tokens")
    reference_cache: str | None = Field(None, description="folder to keep reference passes in")
    order: Literal["given", "easy-to-hard"] | None = Field(None, description="order of the steps [given]")


class MergeStage(StageSettings):
    """One model of several: their average, or the point between two on the sphere."""

    models: list[Model] = Field(min_length=1, description="the models to merge")
    method: Literal["linear", "slerp", "task-arithmetic", "ties", "dare", "model-stock"] | None = Field(
        None, description="how [linear]"
    )
    weights: list[OverDepth] | None = Field(
        None, description="weight of each model, such as 0.4,0.6; 0:1 goes from 0 to 1 over the depth"
    )
    t: OverDepth | None = Field(
        None, description="slerp: from the first model (0) to the second (1); 0,0.5,1 over the depth [0.5]"
    )
    density: OverDepth | None = Field(
        None, description="ties, dare: share of each difference that stays [0.2, 0.1]"
    )
    scaling: float | None = Field(None, description="ties: factor of the merged difference [1]")
    seed: Seed | None = Field(None, description="dare: seed of what is dropped [0]")
    base_model: Model | None = Field(
        None, description="what the models were tuned from (all but linear and slerp)"
    )

    @classmethod
    def draws(cls, values: Mapping[str, Any]) -> bool:
        """Only DARE does."""
        return values.get("method") == "dare"


class EvaluateStage(StageSettings):
    """Scores of models on a suite of tasks."""

    models: list[Model] = Field(min_length=1, description="the models to evaluate")
    suite: Suite = Field(description="h6, h4, openllm, a suite file or a task")
    data: list[File] | None = Field(None, description="folders to read rows from, in place of the hub")
    limit: int | None = Field(None, ge=1, description="items of each task at most")
    batch_size: int | None = Field(None, ge=1, description="sequences at a time")
    device: str | None = Field(None, description="cpu, cuda or cuda:N")
    dtype: str | None = Field(None, description="type of the arithmetic; auto is float32 on a CPU")
    backend: Literal["hf", "vllm"] | None = Field(None, description="what runs the model [hf]")
    apply_chat_template: bool | None = Field(None, description="ask in the tokenizer's chat template")
    threads: int | None = Field(None, ge=1, description="processor threads")
    jobs: int | None = Field(None, ge=1, description="models at a time, on a CPU [1]")


class JudgeStage(StageSettings):
    """Grades of models' answers to questions of two turns, by a judge on a server."""

    models: list[Model] = Field(min_length=1, description="the models to ask")
    questions: File = Field(description="rows {id, category, questions, references}")
    judge: str = Field(description="an OpenAI-compatible server")
    judge_model: str = Field(description="the judge's name there")
    example: File | None = Field(None, description="a row of the same form with answers: adds 1-shot")
    max_tokens: int | None = Field(None, ge=1, description="tokens of an answer at most")
    timeout_seconds: Positive | None = Field(None, description="seconds for one grade")
    device: str | None = Field(None, description="cpu, cuda or cuda:N")
