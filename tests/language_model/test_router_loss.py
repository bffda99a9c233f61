"""The load balancing loss of mixtures of experts: the loss and gradients of a step are the whole model's own."""

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from pd_lightning.data import TokenBlocks
from pd_lightning.language_model import LanguageModel, build_causal_lm
from pd_lightning.module import DistillationModule
from pd_lightning.schedules import Constant
from pd_lightning.students import HFStudent
from pd_lightning.teachers import FrozenTeacher, NoTeacher

SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
    "initializer_range": 0.3,
    "num_experts_per_tok": 2,
    "output_router_logits": True,
    "router_aux_loss_coef": 0.5,
}
QWEN3 = {**SMALL, "model_type": "qwen3_moe", "num_experts": 4, "moe_intermediate_size": 16}
MIXTRAL = {**SMALL, "model_type": "mixtral", "num_local_experts": 4}
OLMOE = {**SMALL, "model_type": "olmoe", "num_experts": 4}
# Another coefficient, another loss function, another base model's prefix, dense layers in between.
JETMOE = {**SMALL, "model_type": "jetmoe", "kv_channels": 8, "num_local_experts": 4, "aux_loss_coef": 0.5}
GRANITE = {**SMALL, "model_type": "granitemoe", "num_local_experts": 4, "logits_scaling": 3.0}
GPT_OSS = {**SMALL, "model_type": "gpt_oss", "head_dim": 8, "num_local_experts": 4}
JAMBA = {**SMALL, "model_type": "jamba", "num_experts": 4, "mamba_d_state": 4, "use_mamba_kernels": False}


class Uneven(pl.LightningDataModule):
    """Four blocks, of which 16, 3, 9 and 12 positions have labels, of one document each or of two."""

    def __init__(self, batch_size: int, isolated: bool = False) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.isolated = isolated

    def train_dataloader(self) -> Any:
        ids = torch.randint(0, 300, (4, 17), generator=torch.Generator().manual_seed(5))
        labels = ids[:, 1:].clone()
        for row, count in enumerate([16, 3, 9, 12]):
            labels[row, count:] = -100
        items = [{"input_ids": ids[row, :-1], "labels": labels[row]} for row in range(4)]
        if self.isolated:
            for row, item in enumerate(items):
                item["position_ids"] = torch.cat([torch.arange(row + 4), torch.arange(12 - row)])
        return torch.utils.data.DataLoader(items, batch_size=self.batch_size)


class Watched(DistillationModule):
    """Keeps gradients as the optimizer meets them."""

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        self.gradients = {name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None}

    def logged(self, name: str) -> float:
        return float(self.trainer.logged_metrics[f"train/{name}"])


def step(config: dict, data: pl.LightningDataModule, teacher: Any = None, accumulate: int = 1, **settings: Any) -> Any:
    """One step that leaves the weights as they are."""
    settings = {"lr": Constant(0.0), "optimizer": torch.optim.SGD, **settings}
    module = Watched(HFStudent(config=config), teacher or NoTeacher(), **settings)
    pl.Trainer(
        accelerator="cpu",
        max_steps=1,
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    ).fit(module, data)
    return module


def whole(model: Any, data: Uneven) -> tuple[Tensor, Tensor]:
    """What transformers computes: the loss of a step as the mean over its labelled positions, and the auxiliary one."""
    loss = aux = 0
    batches = list(data.train_dataloader())
    total = sum((batch["labels"] != -100).sum() for batch in batches)
    for batch in batches:
        share = (batch["labels"] != -100).sum() / total
        inputs = {name: batch[name] for name in ("input_ids", "position_ids") if name in batch}
        output = model(**inputs, labels=batch["labels"], shift_labels=batch["labels"], use_cache=False)
        loss, aux = loss + share * output.loss, aux + share * output.aux_loss.detach()
    model.zero_grad()
    loss.backward()
    return loss.detach(), aux


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("config", [QWEN3, MIXTRAL, OLMOE], ids=lambda config: config["model_type"])
def test_a_step_is_the_whole_models_own(config: dict, accumulate: int, isolated: bool) -> None:
    data = Uneven(4 // accumulate, isolated)
    module = step(config, data, accumulate=accumulate)
    model = module.student.model
    loss, aux = whole(model, data)
    assert module.logged("loss") == pytest.approx(float(loss), rel=1e-6)
    assert module.logged("router_aux_loss") == pytest.approx(float(aux), rel=1e-6)
    assert module.logged("loss") - module.logged("lm_loss") == pytest.approx(0.5 * float(aux), rel=1e-5)
    assert {name.removeprefix("student.model.") for name in module.gradients} == {
        n for n, _ in model.named_parameters()
    }
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(module.gradients[f"student.model.{name}"], parameter.grad, rtol=1e-4, atol=1e-6)


def test_the_kd_weight_does_not_scale_it(teacher_dir: Path) -> None:
    data = Uneven(4)
    alone, taught = step(QWEN3, data), step(QWEN3, data, FrozenTeacher(str(teacher_dir)), kd_weight=Constant(1.0))
    assert taught.logged("router_aux_loss") == alone.logged("router_aux_loss") > 1
    added = taught.logged("loss") - taught.logged("kd_loss")
    assert added == pytest.approx(0.5 * taught.logged("router_aux_loss"), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.* is no declared field")
@pytest.mark.parametrize("config", [QWEN3, JETMOE, GRANITE, GPT_OSS, JAMBA], ids=lambda c: c["model_type"])
def test_every_architectures_own_loss_is_found(config: dict) -> None:
    torch.manual_seed(1)
    model: Any = build_causal_lm(config)
    student = LanguageModel(model).train()
    ids = torch.randint(0, 300, (2, 9))
    expected = model(ids, use_cache=False)
    hidden, found = student.hidden_and_router_loss(ids)
    torch.testing.assert_close(student.head(hidden), expected.logits)
    assert found is not None
    torch.testing.assert_close(found, expected.aux_loss)
    gate = next(p for name, p in model.named_parameters() if "router" in name or "gate" in name)
    torch.testing.assert_close(*(torch.autograd.grad(loss, gate)[0] for loss in (found, expected.aux_loss)))
    assert student.router_coefficient == 0.5


def test_there_is_none_in_evaluation_nor_where_it_is_off_nor_without_experts() -> None:
    ids = torch.arange(6)[None]
    student = LanguageModel(build_causal_lm(QWEN3))
    assert student.train().hidden_and_router_loss(ids)[1] is not None
    assert student.eval().hidden_and_router_loss(ids)[1] is None
    assert (
        LanguageModel(build_causal_lm({**QWEN3, "output_router_logits": False})).hidden_and_router_loss(ids)[1] is None
    )
    plain = LanguageModel(nn.Embedding(9, 9))
    assert plain.hidden_and_router_loss(ids)[1] is None
    assert plain.router_coefficient == 0.0


def test_validation_is_the_lm_loss_alone(blocks: Path) -> None:
    losses = []
    for adds in (True, False):
        torch.manual_seed(2)
        student = build_causal_lm({**QWEN3, "output_router_logits": adds})
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = pl.Trainer(accelerator="cpu", limit_val_batches=2, **quiet)  # type: ignore[arg-type]
        (metrics,) = trainer.validate(
            DistillationModule(student), TokenBlocks(str(blocks), batch_size=4), verbose=False
        )
        losses.append(metrics["val/lm_loss"])
    assert losses[0] == losses[1]


def test_a_coefficient_that_does_nothing_is_said() -> None:
    with pytest.warns(
        UserWarning, match=r"Qwen3MoeForCausalLM must add its load balancing loss .* got 0.5 with .*false."
    ) as said:
        step({**QWEN3, "output_router_logits": False}, Uneven(4))
    texts = [str(one.message) for one in said if "load balancing" in str(one.message)]
    assert len(texts) == 1
    assert "Set model.student.init_args.config.output_router_logits to true" in texts[0]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*load balancing")
        step({**QWEN3, "output_router_logits": False, "router_aux_loss_coef": 0.0}, Uneven(4))
        step(QWEN3, Uneven(4))


def test_a_model_that_is_not_split_is_said_to_lack_it() -> None:
    model: Any = build_causal_lm(QWEN3)
    student = LanguageModel(model)
    student._split = False
    assert student.hidden_and_router_loss(torch.arange(4)[None])[1] is None
    with pytest.warns(
        UserWarning, match=r"got 0.5 with output_router_logits true. Set model.student to an architecture"
    ):
        student.warn_of_lost_router_loss()
