"""Teacher, transforms, loss and schedule as one object in a training step of one's own."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pd_lightning.data import TokenBlocks
from pd_lightning.data.layout import as_hugging_face, as_next_tokens
from pd_lightning.distiller import Distiller
from pd_lightning.losses import ReverseKL
from pd_lightning.module import DistillationModule
from pd_lightning.schedules import Linear
from pd_lightning.targets.heads import Head
from pd_lightning.teachers import FrozenTeacher, NoTeacher, OfflineTeacher, Surroundings
from pd_lightning.transforms import Temperature, TopK
from pd_lightning.weightings import TeacherEntropy

V, D, B, T = 11, 6, 3, 5


class Bigram(nn.Module):
    def __init__(self, seed: int, vocab_size: int = V) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(vocab_size, D)
        self.head = nn.Linear(D, vocab_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.embedding(input_ids))


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(V, (B, T + 1), generator=torch.Generator().manual_seed(3))


def of(teacher: nn.Module, **settings: Any) -> Distiller:
    distiller = Distiller(FrozenTeacher(teacher), **settings)
    distiller.setup(Surroundings(torch.device("cpu")))
    return distiller


def by_formula(student: Tensor, teacher: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """(1 - α) · cross entropy + α · KL(teacher ‖ student), a mean over the labels, in float64."""
    log_q, log_p = (logits.double().log_softmax(-1).flatten(0, 1) for logits in (student, teacher))
    counted = labels.flatten() != -100
    lm = -log_q.gather(-1, labels.flatten().clamp(min=0)[:, None]).squeeze(-1)
    kd = (log_p.exp() * (log_p - log_q)).sum(-1)
    return ((1 - alpha) * lm + alpha * kd)[counted].mean()


def test_the_mixed_loss_and_its_gradients(tokens: Tensor) -> None:
    student, teacher = Bigram(1), Bigram(2)
    labels = tokens[:, 1:].clone()
    labels[0, :2] = -100
    logits = student(tokens[:, :-1])
    distilled = of(teacher, kd_weight=0.7)((tokens[:, :-1], labels), logits)
    with torch.no_grad():
        said = teacher(tokens[:, :-1])
    expected = by_formula(logits, said, labels, 0.7)
    assert distilled.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (grad,) = torch.autograd.grad(distilled.loss, student.head.weight, retain_graph=True)
    (reference,) = torch.autograd.grad(expected, student.head.weight)
    torch.testing.assert_close(grad, reference, rtol=1e-5, atol=1e-7)
    assert distilled.lm_loss.item() == pytest.approx(by_formula(logits, said, labels, 0.0).item(), rel=1e-6)
    assert distilled.kd_loss is not None
    assert distilled.kd_loss.item() == pytest.approx(by_formula(logits, said, labels, 1.0).item(), rel=1e-5)
    counted = labels != -100
    agreement = (logits.argmax(-1) == said.argmax(-1))[counted].float().mean()
    assert distilled.metrics("train/")["train/top1_agreement"].item() == pytest.approx(agreement.item())
    assert distilled.num_tokens == B * T - 2
    assert not any(value.requires_grad for value in distilled.metrics().values())


@pytest.mark.parametrize(
    "head", [lambda s: s.head, lambda s: Head(s.head, tuple(s.head.parameters()), V)], ids=["linear", "any"]
)
def test_hidden_states_and_head_in_place_of_logits(tokens: Tensor, head: Any) -> None:
    grads = []
    for fused in (False, True):
        student = Bigram(1)
        transforms = {"top": TopK(4), "temperature": Temperature(2.0)}
        distiller = of(Bigram(2), transforms=transforms, loss=ReverseKL(), chunk_size=4)
        hidden = student.embedding(tokens[:, :-1])
        output = {"hidden": hidden, "head": head(student)} if fused else {"logits": student.head(hidden)}
        distilled = distiller((tokens[:, :-1], tokens[:, 1:]), **output)
        distilled.loss.backward()
        grads.append([distilled.loss.detach(), student.embedding.weight.grad, student.head.weight.grad])
    for plain, fused_one in zip(*grads, strict=True):
        torch.testing.assert_close(plain, fused_one)


def test_students_that_leave_out_the_last_position_or_flatten_their_logits(tokens: Tensor) -> None:
    student, distiller = Bigram(1), of(Bigram(2))
    whole = distiller((tokens[:, :-1], tokens[:, 1:]), student(tokens[:, :-1]))
    for logits in (student(tokens), student(tokens[:, :-1]), student(tokens[:, :-1]).flatten(0, 1)):
        distilled = distiller(tokens, logits)
        assert distilled.loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)
        assert distilled.num_tokens == B * T
    with pytest.raises(ValueError, match=rf"of shape \[{B}, {T + 1}, V\], got \[{B}, 3, {V}\]\. Give the Distiller"):
        distiller(tokens, student(tokens[:, :3]))


def test_a_student_with_more_padding_than_its_teacher(tokens: Tensor) -> None:
    class Named(Bigram):
        config = type("Config", (), {"vocab_size": V})()

    distiller = Distiller(FrozenTeacher(Named(2)))
    distiller.setup(Surroundings(torch.device("cpu"), tokenizer_vocab_size=V))
    student = Bigram(1, V + 3)
    distilled = distiller(tokens, student(tokens))
    log_q, log_p = (logits.double().log_softmax(-1)[:, :-1] for logits in (student(tokens)[..., :V], Named(2)(tokens)))
    assert distilled.kd_loss is not None
    assert distilled.kd_loss.item() == pytest.approx((log_p.exp() * (log_p - log_q)).sum(-1).mean().item(), rel=1e-5)

    for teacher in (Named(2), Bigram(2)):  # one that tells its width, and one that does not
        distiller = of(teacher)
        with pytest.raises(ValueError, match=rf"must share a vocabulary, got {V} and {V + 3} ids"):
            distiller(tokens, Bigram(1, V + 3)(tokens))


def test_what_it_must_be_given(tokens: Tensor) -> None:
    logits = Bigram(1)(tokens)
    with pytest.raises(ValueError, match=r"must be set up before it is called.*Call its setup\(self\)"):
        Distiller(FrozenTeacher(Bigram(2)))(tokens, logits)
    distiller = of(Bigram(2))
    for given in ({}, {"logits": logits, "hidden": logits, "head": nn.Linear(V, V)}, {"hidden": logits}):
        with pytest.raises(ValueError, match="either logits, or hidden and head"):
            distiller(tokens, **given)
    with pytest.raises(ValueError, match="ReverseKL must have dense or bucket targets"):
        of(Bigram(2), transforms={"top": TopK(2, tail="renormalize")}, loss=ReverseKL())


def test_a_weight_of_zero_asks_no_teacher_but_in_validation(tokens: Tensor) -> None:
    distiller = of(Bigram(2), kd_weight=0.0)
    logits = Bigram(1)(tokens)
    trained = distiller(tokens, logits)
    assert (trained.kd_loss, trained.kd_weight) == (None, 0.0)
    assert set(trained.metrics()) == {"loss", "lm_loss"}
    with torch.no_grad():
        assert set(distiller(tokens, logits).metrics()) == {"loss", "lm_loss", "kd_loss", "top1_agreement"}
    assert Distiller(NoTeacher())


class Own(pl.LightningModule):
    def __init__(self, distiller: Distiller) -> None:
        super().__init__()
        self.model = Bigram(1, 300)
        self.distiller = distiller
        self.weights: list[float] = []

    def setup(self, stage: str) -> None:
        self.distiller.setup(self)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        ids = batch[0] if isinstance(batch, tuple) else batch["input_ids"]
        distilled = self.distiller(batch, self.model(ids))
        self.weights.append(distilled.kd_weight)
        self.log_dict(distilled.metrics("train/"))
        return distilled.loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        ids = batch[0] if isinstance(batch, tuple) else batch["input_ids"]
        self.log_dict(self.distiller(batch, self.model(ids)).metrics("val/"))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def fit(module: pl.LightningModule, data: Any, steps: int = 4, ckpt: Path | None = None, **settings: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        **settings,
    )
    trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
    return trainer


def weights(module: pl.LightningModule) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


@pytest.mark.parametrize("batch_map", [None, as_next_tokens, as_hugging_face])
@pytest.mark.parametrize("live", [True, False])
def test_in_a_lightning_module_it_is_what_our_module_does(
    blocks: Path, truncated_store: Path, teacher_dir: Path, batch_map: Any, live: bool
) -> None:
    if live:
        data = TokenBlocks(str(blocks), batch_size=4, max_train_blocks=16, max_val_blocks=8, batch_map=batch_map)
    else:
        data = TokenBlocks(str(truncated_store), batch_size=4, batch_map=batch_map)
    teacher = FrozenTeacher(str(teacher_dir)) if live else OfflineTeacher()
    settings: dict[str, Any] = {"transforms": {"top": TopK(10)}, "kd_weight": Linear(0.2, 0.8)}
    own = Own(Distiller(teacher, **settings))
    trainer = fit(own, data, val_check_interval=4, limit_val_batches=2)
    assert own.weights == pytest.approx([0.2, 0.4, 0.6, 0.8])

    teacher = FrozenTeacher(str(teacher_dir)) if live else OfflineTeacher()
    ours = DistillationModule(Bigram(1, 300), teacher, lr=0.5, optimizer=torch.optim.SGD, **settings)
    plain = TokenBlocks(str(blocks if live else truncated_store), batch_size=4, max_train_blocks=16 if live else None)
    reference = fit(ours, plain, val_check_interval=4, limit_val_batches=2)
    for mine, other in zip(weights(own), weights(ours), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    for name in ("val/lm_loss", "val/kd_loss", "val/top1_agreement"):
        assert float(trainer.callback_metrics[name]) == pytest.approx(float(reference.callback_metrics[name]), rel=1e-5)


@pytest.mark.parametrize("given", ["rebuilt", "copied"])
def test_recorded_targets_are_found_for_a_batch_in_another_container_or_not_at_all(
    truncated_store: Path, given: str
) -> None:
    class Unpacks(Own):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            pair = tuple(part if given == "rebuilt" else part.clone() for part in batch)
            distilled = self.distiller(pair, self.model(pair[0]))
            self.log_dict(distilled.metrics("train/"))
            return distilled.loss

    data = TokenBlocks(str(truncated_store), batch_size=4, batch_map=as_next_tokens)
    if given == "copied":
        with pytest.raises(ValueError, match=r"must be the one that the data gave.*batch of the step as it came"):
            fit(Unpacks(Distiller(OfflineTeacher())), data, limit_val_batches=0)
        return
    trainer = fit(Unpacks(Distiller(OfflineTeacher())), data, limit_val_batches=0)
    plain = fit(Own(Distiller(OfflineTeacher())), TokenBlocks(str(truncated_store), batch_size=4), limit_val_batches=0)
    assert trainer.callback_metrics["train/kd_loss"] == plain.callback_metrics["train/kd_loss"]


def test_a_head_with_a_hook_is_called(tokens: Tensor) -> None:
    student, distiller = Bigram(1), of(Bigram(2))
    student.head.register_forward_hook(lambda module, inputs, output: 2.0 * torch.tanh(output / 2.0))
    hidden = student.embedding(tokens)
    by_logits, by_head = distiller(tokens, student.head(hidden)), distiller(tokens, hidden=hidden, head=student.head)
    assert by_head.loss.item() == pytest.approx(by_logits.loss.item(), rel=1e-6)


def test_the_teacher_is_in_no_checkpoint_and_a_resumed_run_goes_on(blocks: Path, tmp_path: Path) -> None:
    def module() -> Own:
        return Own(Distiller(FrozenTeacher(Bigram(2, 300)), kd_weight=Linear(0.0, 1.0)))

    def data() -> TokenBlocks:
        return TokenBlocks(str(blocks), batch_size=4, max_train_blocks=32)

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "3.ckpt")

    whole = module()
    fit(whole, data(), steps=6, callbacks=[Save()], limit_val_batches=0)
    saved = torch.load(tmp_path / "3.ckpt", weights_only=True)["state_dict"]
    assert set(saved) == {"model.embedding.weight", "model.head.weight", "model.head.bias"}
    resumed = module()
    fit(resumed, data(), steps=6, ckpt=tmp_path / "3.ckpt", limit_val_batches=0)
    assert resumed.weights == whole.weights[3:]
    assert all(map(torch.equal, weights(whole), weights(resumed)))


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Any:
        return iter([{"input_ids": torch.ones(2, 5, dtype=torch.int64)}] * 3)


def test_what_a_trainer_must_be(blocks: Path) -> None:
    data = TokenBlocks(str(blocks), batch_size=4, max_train_blocks=8)
    with pytest.raises(ValueError, match="must not be float16"):
        fit(Own(Distiller(FrozenTeacher(Bigram(2, 300)))), data, precision="16-true")
    rising = Own(Distiller(FrozenTeacher(Bigram(2, 300)), kd_weight=Linear(0.0, 1.0)))
    with pytest.raises(ValueError, match=r"length of the run must be known.*Set trainer\.max_steps"):
        fit(rising, data, steps=-1, max_time="00:00:01:00")
    stream = torch.utils.data.DataLoader(Stream(), batch_size=None)  # an epoch of it has no length
    with pytest.raises(ValueError, match=r"length of the run must be known.*Set trainer\.max_steps"):
        fit(rising, stream, steps=-1, max_epochs=1, limit_val_batches=0)
    ends = fit(Own(Distiller(FrozenTeacher(Bigram(2, 300)), kd_weight=0.5)), data, steps=-1, max_epochs=1)
    assert ends.global_step == 2
    with pytest.raises(ValueError, match=r"kd_weight must stay in \[0, 1\], got 1\.33333 at step 2"):
        fit(Own(Distiller(FrozenTeacher(Bigram(2, 300)), kd_weight=Linear(0.0, 2.0))), data)


def test_schedules_follow_the_batches_where_two_optimizers_step_at_each(blocks: Path) -> None:
    class Two(Own):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            loss = super().training_step(batch, batch_idx)
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()

        def configure_optimizers(self) -> Any:
            parts = (self.model.embedding, self.model.head)
            return [torch.optim.SGD(part.parameters(), lr=0.1) for part in parts]

    module = Two(Distiller(FrozenTeacher(Bigram(2, 300)), kd_weight=Linear(0.0, 1.0)))
    data = TokenBlocks(str(blocks), batch_size=4, max_train_blocks=20)
    fit(module, data, steps=-1, max_epochs=1, limit_val_batches=0)
    assert module.weights == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])


def test_pieces_of_another_kind_are_told() -> None:
    with pytest.raises(ValueError, match=r"teacher must be a Teacher, got Bigram\. Give .*FrozenTeacher\(model\)"):
        Distiller(Bigram(2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="transforms must be a dictionary of transforms by names of yours, got list"):
        Distiller(NoTeacher(), [TopK(3)])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must be a number or a Schedule, got '0\.9'"):
        Distiller(NoTeacher(), kd_weight="0.9")  # type: ignore[arg-type]


def test_weightings_act(tokens: Tensor) -> None:
    logits = Bigram(1)(tokens)
    plain = of(Bigram(2), kd_weight=0.5)(tokens, logits)
    routed = of(Bigram(2), kd_weight=0.5, weighting={"routed": TeacherEntropy(0.5)})(tokens, logits)
    assert routed.loss.item() != pytest.approx(plain.loss.item(), rel=1e-3)
    assert routed.lm_loss.item() == plain.lm_loss.item()


def test_labels_everywhere_masked_give_a_finite_zero(tokens: Tensor) -> None:
    student = Bigram(1)
    batch = {"input_ids": tokens, "labels": torch.full_like(tokens, -100)}
    distilled = of(Bigram(2))(batch, student(tokens))
    distilled.loss.backward()
    assert distilled.loss == 0
    assert student.head.weight.grad is not None
    assert not student.head.weight.grad.any()
    assert F.mse_loss(distilled.loss, torch.tensor(0.0)) == 0
