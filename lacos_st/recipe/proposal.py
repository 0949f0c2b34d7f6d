"""A proposal: one base trained by one method within a budget, with its data, its cost and its memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lacos_st.errors import UserError
from lacos_st.presets import PRESETS, learning_rate
from lacos_st.recipe.activations import SIDES
from lacos_st.recipe.bill import Bill, bill_of
from lacos_st.recipe.budget import Budget
from lacos_st.recipe.cost import MULTIPLY_ADD
from lacos_st.recipe.family import Member
from lacos_st.recipe.fit import smaller
from lacos_st.recipe.job import ITEM_BYTES, Job, Method
from lacos_st.recipe.law import Prediction
from lacos_st.recipe.memory import predict
from lacos_st.recipe.shapes import ModelShape
from lacos_st.recipe.units import show_bytes, show_flops

if TYPE_CHECKING:
    from lacos_st.settings import TrainConfig

RECIPE = PRESETS["recipe"]
BATCH_SIZE = int(RECIPE.values["batch_size"])
BLOCK_SIZES = (256, 128, 64, 32)  # that an 8-bit base is tried with
ROUNDING = 1e-9  # of a quotient that should be whole


@dataclass(frozen=True)
class Request:
    """What a plan is asked for.

    Attributes:
        budget: to be spent.
        length: mean tokens of a sentence.
        batch_size: pairs of a step.
        device: "cpu" or "cuda".
        dtype: of the products; weights that are trained stay in 32 bits.
        memory_bytes: that there are; None: not checked.
        pairs: that there are to train on, each of them used once; None: no limit.
        serve_tokens: that the trained model will embed, paid from the same budget.
        common: what all runs of a law were trained with, see `choice.conditions`; None: the preset `recipe`.

    Raises:
        UserError: a number that cannot be.
    """

    budget: Budget
    length: float = 32.0
    batch_size: int = BATCH_SIZE
    device: str = "cpu"
    dtype: str = "float32"
    memory_bytes: float | None = None
    pairs: float | None = None
    serve_tokens: float = 0.0
    common: TrainConfig | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.batch_size:
            raise UserError(f"the batch is {self.batch_size}: expected 2 pairs or more, as one pair has no negative")
        if not 1 <= self.length < math.inf:
            raise UserError(f"the length is {self.length:g}: expected 1 token or more")
        if self.pairs is not None and self.pairs < self.batch_size:
            raise UserError(
                f"{self.pairs:g} pairs are fewer than one batch of {self.batch_size}: lower --batch-size, or get more"
            )

    @property
    def step_tokens(self) -> float:
        """Of both sides of a batch."""
        return SIDES * self.length * self.batch_size

    @property
    def told(self) -> Mapping[str, Any]:
        """Options of `lacos-st train` that every run of the plan has, those of the preset among them."""
        return RECIPE.values if self.common is None else vars(self.common)


@dataclass(frozen=True)
class Setting:
    """A method with what it is told.

    Attributes:
        method: of `lacos-st train`.
        rank: of the adapters (lora, lacos).
        frozen_blocks: first blocks that are frozen (freeze).
        lr: peak learning rate.
        source: where rank, blocks and rate come from, a sentence.
        others: more options of `lacos-st train`.
    """

    method: Method
    rank: int = 1
    frozen_blocks: int = 0
    lr: float = 0.0
    source: str = ""
    others: dict[str, Any] = field(default_factory=dict)

    @property
    def adapted(self) -> bool:
        """Whether it trains adapters."""
        return self.method in ("lora", "lacos")


@dataclass(frozen=True)
class Proposal:
    """A configuration that can be run.

    Attributes:
        member: the base.
        setting: the method.
        job: with what was switched on to fit.
        steps: of the optimiser.
        bill: of its training and serving.
        peak_bytes: of memory, predicted.
        fits: None where no memory was named.
        all_data: whether it uses all the pairs there are.
        autocast: dtype of the products, where the weights are wider.
        loss: expected, with its interval; None where no law says.
    """

    member: Member
    setting: Setting
    job: Job
    steps: int
    bill: Bill
    peak_bytes: int
    fits: bool | None
    all_data: bool
    autocast: str | None = None
    loss: Prediction | None = None

    @property
    def tokens(self) -> float:
        """D, of both sides of the pairs."""
        return self.bill.tokens

    @property
    def pairs(self) -> int:
        """That it is trained on."""
        return self.steps * self.job.batch_size

    @property
    def training_flops(self) -> float:
        """All terms but serving."""
        return self.bill.flops.total - self.bill.flops.serving

    @property
    def trainable(self) -> float:
        """S: N_U / N_F."""
        return self.bill.parameters.updated / self.bill.parameters.forward

    @property
    def label(self) -> str:
        """Method and base."""
        return f"{self.bill.label}, on {self.member.name}"


@dataclass(frozen=True)
class LeftOut:
    """A configuration that cannot be run.

    Attributes:
        member: the base.
        method: of training.
        reason: why not.
        smallest_flops: the budget with which it could; None where that is not the reason.
    """

    member: Member
    method: str
    reason: str
    smallest_flops: float | None = None


def preset_rate(method: Method, shape: ModelShape, common: TrainConfig | None = None) -> tuple[float, str]:
    """The peak learning rate that runs have in common, else the recipe paper's; and where it is from."""
    if common is not None and common.lr is not None:
        return common.lr, "that of all runs"
    if common is not None and (lr := PRESETS[common.preset].lr.get(method)) is not None:
        return lr, f"that of all runs, from the preset {common.preset}"
    lr = RECIPE.lr[method]
    if lr is not None:
        return lr, "the recipe paper's for adapters" if method in ("lora", "lacos") else "the recipe preset's"
    rate, nearest = learning_rate(shape.without_embedding)
    return rate, f"the recipe paper's for {nearest}, the nearest in size"


def propose(member: Member, setting: Setting, request: Request) -> Proposal | LeftOut:
    """What a base and a method come to within a request: as many whole steps as budget and data allow.

    The budget pays 2·N·T for serving first. With a memory limit, checkpointing and a cached loss are switched on as far
    as they are needed (`recipe.fit.smaller`); a budget in hours pays for them too.

    Args:
        member: the base.
        setting: the method.
        request: the limits.
    """
    try:
        request = _as_set(request, setting)
    except UserError as error:
        return LeftOut(member, setting.method, str(error))
    shape, job = member.shape, _job(member.shape, setting, request)
    if job is None:
        return LeftOut(member, setting.method, "its widths are multiples of no block size of the 8-bit format")
    fitting = job if request.memory_bytes is None else smaller(shape, job, request.memory_bytes)
    if fitting is None:
        least = replace(job, checkpointing=True, mini_batch=1)
        needed = show_bytes(predict(shape, least).peak)
        assert request.memory_bytes is not None
        return LeftOut(
            member,
            setting.method,
            f"needs {needed} at the least, with checkpointing and one pair at a time, and "
            f"{show_bytes(request.memory_bytes)} are there",
        )
    one = bill_of(shape, fitting, tokens=request.step_tokens, serve_tokens=request.serve_tokens)
    step, serving = _counted(one, request.budget), _serving(one, member, request)
    left = request.budget.flops - serving
    by_budget = math.floor(left / step + ROUNDING)
    by_data = math.inf if request.pairs is None else request.pairs // request.batch_size
    if by_budget < 1:
        why = f"one step takes {show_flops(step)}"
        if serving:
            why += f" and serving {show_flops(serving)}"
        return LeftOut(member, setting.method, f"{why}, of {show_flops(request.budget.flops)}", step + serving)
    steps = int(min(by_budget, by_data))
    bill = bill_of(shape, fitting, tokens=steps * request.step_tokens, serve_tokens=request.serve_tokens)
    return Proposal(
        member=member,
        setting=setting,
        job=fitting,
        steps=steps,
        bill=replace(bill, steps=steps),
        peak_bytes=predict(shape, fitting).peak,
        fits=None if request.memory_bytes is None else True,
        all_data=by_data <= by_budget,
        autocast=None if setting.adapted or ITEM_BYTES[request.dtype] > 2 else request.dtype,
    )


def _as_set(request: Request, setting: Setting) -> Request:
    """With the batch and the sentences that the setting itself names; raises as `Request`."""
    own = setting.others
    limit = (1 + bool(request.told.get("echo"))) * (own.get("max_seq_length") or math.inf)
    return replace(request, batch_size=own.get("batch_size", request.batch_size), length=min(request.length, limit))


def _job(shape: ModelShape, setting: Setting, request: Request) -> Job | None:
    """None where no block size fits an 8-bit base."""
    told = {**request.told, **setting.others}
    widths = [layer.inputs for layer in shape.linears] + [shape.embedding_width]
    block = next((size for size in BLOCK_SIZES if not any(width % size for width in widths)), None)
    if setting.method == "lacos" and block is None:
        return None
    return Job(
        method=setting.method,
        batch_size=request.batch_size,
        length=request.length,
        dtype=request.dtype if setting.adapted else "float32",
        device=request.device,
        rank=setting.rank,
        targets=told["lora_targets"],
        frozen_blocks=setting.frozen_blocks,
        block_size=block or BLOCK_SIZES[0],
        optimizer=told["optimizer"],
        adapter_dtype=told.get("adapter_dtype", "float32"),
        checkpointing=told.get("gradient_checkpointing", False),
        mini_batch=told.get("mini_batch_size"),
    )


def _counted(bill: Bill, budget: Budget) -> float:
    """What the budget pays for training."""
    return bill.flops.paper if budget.counted == "paper" else bill.flops.total - bill.flops.serving


def _serving(bill: Bill, member: Member, request: Request) -> float:
    if request.budget.counted == "all":
        return bill.flops.serving
    return MULTIPLY_ADD * member.parameters * request.serve_tokens


def smallest_budget(left_out: list[LeftOut], request: Request) -> UserError:
    """The error where nothing can be run: of the smallest budget that works, or of the memory.

    Args:
        left_out: everything that was tried.
        request: the limits.
    """
    short = [each for each in left_out if each.smallest_flops is not None]
    if short:
        least = min(short, key=lambda each: each.smallest_flops or 0.0)
        assert least.smallest_flops is not None
        needed = least.smallest_flops
        serving = f" and {request.serve_tokens:g} served tokens" if request.serve_tokens else ""
        seconds = request.budget.seconds(needed)
        time = "" if seconds is None or request.budget.counted == "paper" else f" ({seconds / 3600:.2g} hours)"
        return UserError(
            f"the budget of {show_flops(request.budget.flops)} is too small for one step of {request.batch_size} pairs "
            f"of {request.length:g} tokens a side{serving}: the smallest that works is {show_flops(_up(needed))}"
            f"{time}, for {least.method} on {least.member.name}; raise the budget, or lower --batch-size or --length"
        )
    reasons = "; ".join(f"{each.method} on {each.member.name}: {each.reason}" for each in left_out[:3])
    memory = "" if request.memory_bytes is None else f" in {show_bytes(request.memory_bytes)}"
    return UserError(
        f"nothing of this family can be trained{memory} ({reasons}): choose a family with smaller sizes, more "
        "--memory, a smaller --batch-size or shorter sentences (--length)"
    )


def _up(flops: float) -> float:
    """To three digits, upwards, so that the number works as it is shown."""
    unit = 10.0 ** (math.floor(math.log10(flops)) - 2)
    return math.ceil(flops / unit) * unit
