"""Settings of a Hugging Face student that change how it is computed, and nothing of what is computed."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from pd_lightning.data import TokenBlocks
from pd_lightning.export import export
from pd_lightning.language_model import LanguageModel
from pd_lightning.module import DistillationModule
from pd_lightning.schedules import Constant
from pd_lightning.students import HFStudent
from pd_lightning.teachers import FrozenTeacher, OfflineTeacher

EXPERTS = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Has a backend compile that needs no C++ compiler; counts the graphs."""
    torch._dynamo.reset()
    counters.clear()
    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: original(self, backend="aot_eager", **options))
    return lambda: counters["stats"]["unique_graphs"]


@pytest.fixture
def config(tiny: Any) -> dict:
    return {**tiny.config, "vocab_size": tiny.vocab_size, "initializer_range": 0.2}


def build(config: dict, **settings: Any) -> LanguageModel:
    torch.manual_seed(0)
    return HFStudent(config=config, **settings).build({})


def trainer(**settings: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    settings = {"enable_checkpointing": False, **quiet, **settings}
    return pl.Trainer(accelerator="cpu", **settings)


def gradients(student: LanguageModel, batches: list[Tensor]) -> list[Tensor]:
    """Losses and gradients of batches in turn, each with the random draws of its number."""
    found = []
    for number, input_ids in enumerate(batches):
        torch.manual_seed(number)
        hidden, balance = student.hidden_and_router_loss(input_ids)
        loss = F.cross_entropy(student.head(hidden).flatten(0, 1), input_ids.roll(-1, 1).flatten())
        loss = loss if balance is None else loss + balance
        found += [loss.detach(), *torch.autograd.grad(loss, list(student.parameters()))]
    return found


def batches(*sizes: int) -> list[Tensor]:
    return [torch.randint(0, 300, (size, 16), generator=torch.Generator().manual_seed(size)) for size in sizes]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("settings", "experts", "expected"),
    [
        pytest.param({}, False, 1, marks=SLOW),
        pytest.param({}, True, 1, marks=SLOW),
        pytest.param({"activation_checkpointing": True}, False, 1, marks=SLOW),
        # Router logits that leave a checkpoint by a hook break the graph.
        pytest.param({"activation_checkpointing": True}, True, None, marks=SLOW),
    ],
)
def test_a_compiled_student_computes_the_same(
    graphs: Callable[[], int], config: dict, settings: dict, experts: bool, expected: int | None
) -> None:
    config |= {"num_hidden_layers": 1, **({**EXPERTS, "output_router_logits": True} if experts else {})}
    eager, compiled = build(config), build(config, compile=True, **settings)
    assert compiled.state_dict().keys() == eager.state_dict().keys()
    sizes = batches(4, 4, 3, 2, 4)
    for one, other in zip(gradients(eager, sizes), gradients(compiled, sizes), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert graphs() == expected or expected is None


def test_one_graph_serves_batches_of_any_size(config: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced alone, which is fast, and so without any difference."""
    torch._dynamo.reset()
    counter, original = CompileCounter(), nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: original(self, backend=counter, **options))
    config |= {"num_hidden_layers": 1}
    sizes = batches(4, 3, 2)
    for one, other in zip(gradients(build(config), sizes), gradients(build(config, compile=True), sizes), strict=True):
        assert torch.equal(one, other)
    assert counter.frame_count == 1


@SLOW
def test_a_compiled_student_keeps_to_a_document(graphs: Callable[[], int], config: dict) -> None:
    eager, compiled = build(config), build(config, compile=True)
    (input_ids,) = batches(2)
    positions = torch.cat([torch.arange(7), torch.arange(9)]).repeat(2, 1)
    for position_ids in (positions, None):
        found, expected = (student(input_ids, position_ids) for student in (compiled, eager))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert graphs() == 2
    assert not torch.allclose(eager(input_ids, positions), eager(input_ids), atol=1e-2)


def fit(folder: Path, student: HFStudent, store: Path, max_steps: int, ckpt_path: str | None = None) -> Any:
    """Batches of 8 blocks out of 40, and of 12 in validation: in batches of 5, the last of which is short."""
    pl.seed_everything(11)
    module = DistillationModule(student, OfflineTeacher(), kd_weight=Constant(0.5), lr=Constant(1e-3))
    data = TokenBlocks(str(store), batch_size=8, val_batch_size=5, seed=2)
    keep = pl.callbacks.ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    fitted = trainer(max_steps=max_steps, val_check_interval=2, callbacks=[keep], enable_checkpointing=True)
    fitted.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return module


@SLOW
def test_a_compiled_run_is_the_run(graphs: Callable[[], int], tiny: Any, truncated_store: Path, tmp_path: Path) -> None:
    """Losses, validation included; two graphs for it all; resumed from its checkpoint; exported."""
    config = {**tiny.config, "initializer_range": 0.2}
    eager = fit(tmp_path / "eager", HFStudent(config=config), truncated_store, 6)
    assert graphs() == 0
    compiled = fit(tmp_path / "compiled", HFStudent(config=config, compile=True), truncated_store, 6)
    assert graphs() == 2, "training and validation, each at all shapes"
    metrics = [module.trainer.callback_metrics for module in (eager, compiled)]
    for name in ("train/loss", "train/kd_loss", "val/lm_loss", "val/kd_loss"):
        assert float(metrics[1][name]) == pytest.approx(float(metrics[0][name]), rel=1e-5)
    torch._dynamo.reset()
    last = str(tmp_path / "compiled" / "step=3.ckpt")
    resumed = fit(tmp_path / "resumed", HFStudent(config=config, compile=True), truncated_store, 6, last)
    for (name, one), (_, other) in zip(compiled.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    export(str(tmp_path / "compiled" / "step=6.ckpt"), str(tmp_path / "export"))
    exported: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    (input_ids,) = batches(2)
    torch.testing.assert_close(exported(input_ids).logits, compiled.student.eval()(input_ids), rtol=1e-4, atol=1e-5)


def test_setting_up_compiles_nothing(graphs: Callable[[], int], config: dict) -> None:
    """Not the probes, and under the contexts in which Lightning may build a model."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        on_meta = HFStudent(config=config, compile=True).build({})
    assert next(on_meta.parameters()).is_meta
    student = build(config, compile=True)
    student.check_isolation("student")
    assert graphs() == 0


@SLOW
def test_the_default_compiler_computes_the_same(config: dict) -> None:
    """Inductor, where there is a C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError):
        pytest.skip("no C++ compiler")
    torch._dynamo.reset()
    sizes = batches(4, 3)
    for one, other in zip(gradients(build(config), sizes), gradients(build(config, compile=True), sizes), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class Forwards(Counter):
    """How often each decoder layer was computed."""

    def watch(self, student: LanguageModel) -> None:
        for index, layer in enumerate(student.model.model.layers):
            layer.mlp.register_forward_pre_hook(lambda *_, index=index: self.update([index]))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("experts", [False, True])
def test_checkpointed_activations_give_the_same_gradients_to_the_bit(
    config: dict, dropout: float, experts: bool
) -> None:
    config |= {**EXPERTS, "output_router_logits": True} if experts else {}
    config["attention_dropout"] = dropout
    plain, checkpointed = build(config), build(config, activation_checkpointing=True)
    seen = Forwards()
    seen.watch(checkpointed)
    sizes = batches(3, 2)
    for one, other in zip(gradients(plain, sizes), gradients(checkpointed, sizes), strict=True):
        assert torch.equal(one, other)
    assert seen == {0: 4, 1: 4}, "twice a batch"
    checkpointed.eval()
    gradients(checkpointed, batches(2))
    assert seen == {0: 5, 1: 5}, "once where it is not in training"


@pytest.mark.parametrize("pretrained", [False, True])
def test_a_run_checkpoints_activations(
    tiny: Any, blocks: Path, teacher_dir: Path, tmp_path: Path, pretrained: bool
) -> None:
    """The same weights after some steps, with a validation in inference mode in between."""
    source = {"model": str(teacher_dir)} if pretrained else {"config": {**tiny.config, "attention_dropout": 0.2}}
    ends = []
    for setting in (False, True):
        student = HFStudent(activation_checkpointing=setting, **source)  # type: ignore[arg-type]
        module = DistillationModule(student, FrozenTeacher(str(teacher_dir)), lr=Constant(1e-2))
        module._seed = 3
        data = TokenBlocks(str(blocks), batch_size=2)
        trainer(max_steps=2, val_check_interval=1, limit_val_batches=1).fit(module, data)
        ends.append(module.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.filterwarnings("ignore:.* is no declared field")
def test_an_architecture_without_activation_checkpointing_is_refused(config: dict) -> None:
    small = {"model_type": "ctrl", "vocab_size": 300, "n_embd": 32, "n_head": 2, "n_layer": 1, "dff": 32}
    with pytest.raises(ValueError, match=r"got CTRLLMHeadModel, which .*Set model.student.init_args.activation_ch"):
        build(small, activation_checkpointing=True)
    build(small)
