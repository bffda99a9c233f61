"""What a plan assumes, and what it warns of, in words."""

from __future__ import annotations

from typing import Any

from pd_lightning.plan.report import count
from pd_lightning.plan.request import Request
from pd_lightning.plan.sizes import SHAPED_LIKE, Size
from pd_lightning.plan.store_size import KS
from pd_lightning.plan.worth import SOURCE, TOKENS_PER_PARAM, outside
from pd_lightning.scaling.published import teacher_doubts


def assumptions(request: Request, plan: dict[str, Any]) -> list[str]:
    """Name every assumption of a plan, with the flag that changes it.

    Args:
        request: What was planned.
        plan: The plan.
    """
    assume, gpu = request.assume, plan["hardware"]
    found = [
        f"{gpu['name']}: {gpu['tflops']:g} TFLOPS in dense bfloat16, {gpu['memory_gb']:g} GB (--gpu, "
        "--assume.peak_tflops, --assume.gpu_memory_gb)",
        f"training reaches {assume.mfu:.0%} of that, the teacher's forward pass {assume.teacher_mfu:.0%} "
        "(--assume.mfu, --assume.teacher_mfu); restarts and validation are not counted",
        f"blocks of {assume.block_size:,} positions (--assume.block_size), {assume.micro_batch} to a GPU at a time "
        "(--assume.micro_batch); attention over all positions, masked or not",
        f"{request.strategy}, {assume.precision}, {assume.optimizer_bytes:g} bytes a parameter for the optimizer; "
        "activations by formula, with flash attention (--strategy, --assume.precision, --assume.optimizer_bytes)",
    ]
    found += _of_numbers(request.student, "student")
    if request.teacher is not None:
        found += _of_numbers(request.teacher, "teacher")
        found += _of_teacher(request, plan)
    return [*request.notes, *found]


def warnings(request: Request, plan: dict[str, Any]) -> list[str]:
    """Say where a plan can't hold, or is beyond what its figures are good for.

    Args:
        request: What was planned.
        plan: The plan.
    """
    memory = plan["memory"]
    found = []
    for name in ("plain or offline", "online"):
        needed, room = memory.get(name, {}).get("together", 0.0), memory["gpu_bytes"]
        if needed > room:
            fewer = memory[name]["together, checkpointed"]
            hint = "it fits with" if fewer <= room else "more GPUs under fsdp2, fewer blocks at a time, or"
            found.append(
                f"{name} needs {needed / 1e9:.0f} GB of a GPU's {room / 1e9:.0f}: {hint} activation checkpointing"
            )
    if request.teacher is not None:
        size, teacher = request.student, request.teacher
        said = [outside("student", size.params_non_embedding, request.tokens)]
        said.append(outside("teacher", teacher.params_non_embedding, plan["teacher"]["tokens"]))
        found += [text for text in said if text is not None]
        doubts = teacher_doubts(plan["teacher"]["loss"], plan["worth"]["plain_loss_at_equal_tokens"])
        found += [*(f"{text} (--teacher.loss)" for text in doubts), *_of_selection(request)]
    return found


def _of_selection(request: Request) -> list[str]:
    given, k = request.selection, request.selection.k
    if request.store or given.samples or given.bytes_per_token is not None or given.kept_ids is not None:
        return []
    vocab = 0 if request.teacher is None else request.teacher.vocab_size
    if k > vocab > 0:
        return [f"a position has {vocab:,} ids, of which no {k:,} can be kept (--selection.k)"]
    if k > KS[-1]:
        return [
            f"sizes of stores were measured up to k {KS[-1]}, so that of k {k:,} is a guess: record a pilot (--store)"
        ]
    return []


def _of_numbers(size: Size, who: str) -> list[str]:
    if size.exact:
        return []
    same = size.params_non_embedding == size.params
    counted = f"all its parameters count as non-embedding ones (--{who}.params_non_embedding); " if same else ""
    return [
        f"the {who} is known by its number of parameters alone: {counted}2 FLOPs a parameter and forward pass, "
        f"attention left out; for memory, {SHAPED_LIKE}: {size.layers} layers of {size.hidden:,}, "
        f"{size.vocab_size:,} ids (--{who}.config, --assume.vocab_size)"
    ]


def _of_teacher(request: Request, plan: dict[str, Any]) -> list[str]:
    store, teacher, selection = plan["store"], plan["teacher"], request.selection
    kept = "" if store["kept_ids"] is None else f", {store['kept_ids']:.3g} ids kept at a position"
    of = (
        f"{selection.samples} draws"
        if selection.samples
        else (f"top-p {selection.p:g}, k {selection.k}, {selection.values}")
    )
    what = "" if request.store else f"{of}: "
    found = [
        f"store: {what}{store['bytes_per_token']:.4g} bytes a token{kept}, {store['source']} (--selection.kept_ids, "
        "--selection.bytes_per_token, or --store with a pilot)",
        f"a live teacher holds {request.assume.teacher_bytes:g} bytes a parameter (--assume.teacher_bytes)",
    ]
    if not teacher["loss_given"]:
        tokens = "" if teacher["tokens_given"] else f", which are {TOKENS_PER_PARAM:g} a parameter"
        found.append(
            f"the teacher's loss is what the law gives for {count(teacher['tokens'])} tokens{tokens} (--teacher.loss, "
            "--teacher.tokens)"
        )
    chosen = plan["worth"]["chosen"]
    found.append(
        f"the student pays for {chosen['delta_logits']:.3g} of the teacher's forward pass and "
        f"{chosen['delta_pretrain']:.3g} of its training (--assume.delta_logits, --assume.delta_pretrain)"
    )
    found.append(
        f"losses by {SOURCE}: whole distributions, kd_weight 1, nats on their data; differences mean more than levels"
    )
    if request.assume.storage_price:
        found.append(
            f"a TB costs {request.assume.storage_price:g} a month, for {request.assume.storage_months:g} month(s) "
            "(--assume.storage_price, --assume.storage_months)"
        )
    return found
