"""The plan itself, out of its parts."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from pd_lightning.plan.assumed import assumptions, warnings
from pd_lightning.plan.break_even import break_even
from pd_lightning.plan.costs import HOUR, Costs, costs_of
from pd_lightning.plan.hardware import GPU, gpu_named
from pd_lightning.plan.memory import memory_of
from pd_lightning.plan.request import Request, check_numbers
from pd_lightning.plan.sizes import Size
from pd_lightning.plan.store_size import StoreSize, measured, predicted
from pd_lightning.plan.worth import TOKENS_PER_PARAM, compare, optimum
from pd_lightning.scaling.published import supervised_loss

TB = 1e12


def make_plan(request: Request) -> dict[str, Any]:
    """Plan a run.

    Args:
        request: What is to be planned.

    Returns:
        The plan in plain values: sizes, FLOPs, hours, store, memory, break-even, worth, optimum, assumptions, warnings.

    Raises:
        ValueError: If a number can't be meant, or the GPU is not known.
        FileNotFoundError: If there is no such store.
    """
    check_numbers(request)
    assume, student, teacher = request.assume, request.student, request.teacher
    gpu = gpu_named(request.gpu, assume.peak_tflops, assume.gpu_memory_gb)
    recorded = request.tokens / request.epochs
    training = _teacher_training(request)
    costs = costs_of(student, teacher, request.tokens, recorded, training["tokens"], gpu, assume)
    plan: dict[str, Any] = {
        "tokens": request.tokens,
        "student": _model(student, 3 * student.forward_flops),
        "teacher": None if teacher is None else {**_model(teacher, teacher.forward_flops), **training},
        "flops": {
            "student_training": costs.student_flops,
            "teacher_forward": costs.teacher_flops,
            "teacher_training": costs.teacher_training_flops,
        },
        "hardware": {**asdict(gpu), "gpus": request.gpus, "price": request.price},
        "runs": _runs(request, costs),
        "memory": _memory(request, gpu),
    }
    if teacher is not None:
        size = measured(request.store) if request.store else predicted(request.selection)
        plan["store"] = _store(request, size, recorded, costs)
        storage = plan["store"]["bytes"] / TB * assume.storage_price * assume.storage_months
        passes = request.students * request.epochs
        plan["break_even"] = break_even(costs.teacher_hours, passes, request.price, storage)
        plan |= _worth(request, training, costs)
    plan["assumptions"] = assumptions(request, plan)
    plan["warnings"] = warnings(request, plan)
    return plan


def _model(size: Size, flops: float) -> dict[str, Any]:
    names = ("params", "params_non_embedding", "layers", "hidden", "vocab_size", "source", "exact")
    return {**{name: getattr(size, name) for name in names}, "flops_per_token": flops}


def _teacher_training(request: Request) -> dict[str, Any]:
    """Tokens and loss of the teacher, as given or by the law."""
    if request.teacher is None:
        return {"tokens": 0.0, "loss": None, "tokens_given": True, "loss_given": True}
    about, N = request.about_teacher, request.teacher.params_non_embedding
    tokens = TOKENS_PER_PARAM * request.teacher.params if about.tokens is None else about.tokens
    loss = supervised_loss(N, tokens) if about.loss is None else about.loss
    return {
        "tokens": tokens,
        "loss": loss,
        "tokens_given": about.tokens is not None,
        "loss_given": about.loss is not None,
    }


def _runs(request: Request, costs: Costs) -> dict[str, Any]:
    """Hours and price of each way to train, a student's alone."""
    ways = {"plain or offline": costs.student_hours}
    if request.teacher is not None:
        once = costs.teacher_hours
        ways |= {"recording": once, "online": costs.student_hours + request.epochs * once}
        ways |= {"training the teacher": costs.teacher_training_hours}
    tokens = {"recording": request.tokens / request.epochs}
    return {
        name: {
            "gpu_hours": hours,
            "wall_hours": hours / request.gpus,
            "price": None if request.price is None else hours * request.price,
            "tokens_per_second": tokens.get(name, request.tokens) / (hours / request.gpus * HOUR)
            if name != "training the teacher"
            else None,
        }
        for name, hours in ways.items()
    }


def _store(request: Request, size: StoreSize, tokens: float, costs: Costs) -> dict[str, Any]:
    rate = request.tokens / (costs.student_hours * HOUR)
    return {
        "bytes_per_token": size.bytes_per_token,
        "kept_ids": size.kept_ids,
        "tokens": tokens,
        "bytes": size.of(tokens),
        "source": size.source,
        "read_bytes_per_second_per_gpu": rate * size.bytes_per_token,
        "read_bytes_per_second": rate * request.gpus * size.bytes_per_token,
        "write_bytes_per_second": tokens / (costs.teacher_hours * HOUR) * request.gpus * size.bytes_per_token,
    }


def _memory(request: Request, gpu: GPU) -> dict[str, Any]:
    """Bytes of a GPU with a store or no teacher, and with a live one, with and without checkpointed activations."""
    spread = {"strategy": request.strategy, "gpus": request.gpus, "shards": request.shards}
    again = replace(request.assume, activation_checkpointing=True)
    found: dict[str, Any] = {"gpu_bytes": gpu.memory_gb * 1e9, "strategy": request.strategy}
    ways = {"plain or offline": None, **({} if request.teacher is None else {"online": request.teacher})}
    for name, teacher in ways.items():
        parts = memory_of(request.student, teacher, assume=request.assume, **spread)  # type: ignore[arg-type]
        fewer = memory_of(request.student, teacher, assume=again, **spread)  # type: ignore[arg-type]
        found[name] = {**parts, "together": sum(parts.values()), "together, checkpointed": sum(fewer.values())}
    return found


def _worth(request: Request, training: dict[str, Any], costs: Costs) -> dict[str, Any]:
    teacher, student, deltas = request.teacher, request.student, deltas_of(request)
    assert teacher is not None
    found = compare(student, teacher, request.tokens, training["tokens"], training["loss"], deltas)
    paid = deltas[1] * costs.teacher_training_flops
    budget = costs.student_flops + deltas[0] * teacher.forward_flops * request.tokens + paid
    per_param = student.forward_flops / student.params_non_embedding
    best = {
        "budget": budget,
        "plain": optimum(budget, per_param),
        "distilled": optimum(budget, per_param, (training["loss"], deltas[0] * teacher.forward_flops, paid)),
    }
    return {"worth": found, "optimum": best}


def deltas_of(request: Request) -> tuple[float, float]:
    """What of the teacher's forward pass over a student's tokens, and of its training, the student pays for."""
    shared = 1.0 if request.live else 1.0 / (request.students * request.epochs)
    given = request.assume.delta_logits
    return (shared if given is None else given, request.assume.delta_pretrain)
