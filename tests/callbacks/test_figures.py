"""Figures of a comparison against formulas in float64, torchmetrics and lm-evaluation-harness."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from pd_lightning.callbacks.figures import BINS, figures, sums
from pd_lightning.callbacks.rolling import rolling_windows
from pd_lightning.callbacks.token_bytes import token_bytes
from pd_lightning.targets import HiddenTargets, SparseTargets
from pd_lightning.targets.heads import Head

N, V = 400, 11


@pytest.fixture
def said() -> tuple[Tensor, Tensor, Tensor]:
    """Logits of student and teacher, and labels, some of them none."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(N, V, generator=generator) for _ in range(2))
    labels = torch.randint(0, V, (N,), generator=generator)
    labels[:150] = student.argmax(-1)[:150]
    labels[::7] = -100
    return student, teacher, labels


def as_they_are() -> Head:
    return Head(lambda hidden: hidden)


def test_every_figure_is_that_of_its_formula(said: Any) -> None:
    student, teacher, labels = said
    sizes = torch.tensor([0, *range(1, V)])
    total = sums(student, as_they_are(), labels, HiddenTargets(teacher, as_they_are()), sizes)
    found = figures(total, "dense", None, None)
    counted = labels != -100
    q, p = (logits[counted].double().softmax(-1) for logits in (student, teacher))
    true = labels[counted]
    nats = -q[torch.arange(len(true)), true].log()
    text = sizes[true] > 0
    expected = {
        "lm_loss": nats.mean(),
        "perplexity": nats.mean().exp(),
        "bits_per_byte": nats[text].sum() / sizes[true].sum() / math.log(2),
        "top1_accuracy": (q.argmax(-1) == true).double().mean(),
        "top1_agreement": (q.argmax(-1) == p.argmax(-1)).double().mean(),
        "top5_agreement": (q.argsort(descending=True)[:, :5] == p.argmax(-1)[:, None]).any(-1).double().mean(),
        "kl": (p * (p / q).log()).sum(-1).mean(),
        "acceptance": torch.minimum(p, q).sum(-1).mean(),
        "calibration_error": multiclass_calibration_error(q, true, V, BINS, "l1"),
    }
    assert found == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-5)
    assert 0 < found["top1_agreement"] < found["top5_agreement"] < 1


def test_a_student_that_is_its_teacher_differs_by_nothing(said: Any) -> None:
    student, _, labels = said
    found = figures(sums(student, as_they_are(), labels, HiddenTargets(student, as_they_are())), "dense", None, None)
    assert found["kl"] == pytest.approx(0, abs=1e-6)
    assert found["acceptance"] == pytest.approx(1, abs=1e-6)
    assert (found["top1_agreement"], found["top5_agreement"]) == (1, 1)


def test_certainty_counts_as_in_torchmetrics() -> None:
    logits = torch.eye(3).repeat(4, 1) * 1000
    labels = torch.tensor([0, 1, 2, 1] * 3)
    found = figures(sums(logits, as_they_are(), labels, None), None, None, None)
    assert found["calibration_error"] == pytest.approx(
        float(multiclass_calibration_error(logits.softmax(-1), labels, 3, BINS, "l1"))
    )
    assert found.keys() == {"lm_loss", "perplexity", "top1_accuracy", "calibration_error"}


def test_bins_are_the_same_where_weights_are_bfloat16(said: Any) -> None:
    """The default data type of Lightning's precision bf16-true, which the edges of bins must not have."""
    student, _, labels = said
    expected = figures(sums(student, as_they_are(), labels, None), None, None, None)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = figures(sums(student, as_they_are(), labels, None), None, None, None)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == expected


def test_a_stores_tail_is_one_outcome(said: Any) -> None:
    student, teacher, labels = said
    log_p = teacher.log_softmax(-1)
    kept = log_p.topk(3)
    log_tail = torch.log1p(-kept.values.exp().sum(-1))
    missing = torch.arange(N) % 5 == 0
    targets = SparseTargets(kept.indices, kept.values, log_tail, missing=missing)
    found = figures(sums(student, as_they_are(), labels, targets), "bucket", None, None)
    counted = (labels != -100) & ~missing
    log_q = student.double().log_softmax(-1).gather(-1, kept.indices)
    q, p = (torch.cat([x.exp(), 1 - x.exp().sum(-1, keepdim=True)], -1)[counted] for x in (log_q, kept.values.double()))
    assert found["kl_bucket"] == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-4)
    assert found["acceptance_bucket"] == pytest.approx(float(torch.minimum(p, q).sum(-1).mean()), rel=1e-5)
    assert found["top1_agreement"] == pytest.approx(
        float((student.argmax(-1) == kept.indices[:, 0])[counted].double().mean())
    )


def test_padding_of_either_vocabulary_is_left_out(said: Any) -> None:
    student, teacher, labels = said
    wide = torch.cat([teacher, torch.full((N, 2), 9.0)], -1)
    targets = HiddenTargets(wide, as_they_are())
    found = figures(sums(student, as_they_are(), labels, targets, shared=V), "dense", None, None)
    plain = figures(sums(student, as_they_are(), labels, HiddenTargets(teacher, as_they_are())), "dense", None, None)
    assert found == pytest.approx(plain, rel=1e-5)


def test_sums_of_parts_are_those_of_the_whole(said: Any) -> None:
    student, teacher, labels = said
    parts = [
        sums(student[rows], as_they_are(), labels[rows], HiddenTargets(teacher[rows], as_they_are()))
        for rows in (slice(0, 100), slice(100, N))
    ]
    whole = sums(student, as_they_are(), labels, HiddenTargets(teacher, as_they_are()))
    torch.testing.assert_close(parts[0] + parts[1], whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("count", "length"), [(0, 4), (3, 4), (4, 4), (5, 4), (10, 4), (12, 4), (7, 1)])
def test_windows_are_those_of_the_harness(count: int, length: int) -> None:
    from lm_eval.utils import get_rolling_token_windows

    theirs = list(get_rolling_token_windows(list(range(count)), 99, length, 1))
    ours = [(ids[:-1], ids[-scored:]) for ids, scored in rolling_windows(range(count), 99, length)]
    assert ours == [(list(inputs), list(scored)) for inputs, scored in theirs]


TEXT = "def naïve(x):\n    return '€ 😀' * x  # über\n" * 3


def test_bytes_of_tokens_are_those_of_the_text(blocks: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(blocks / "tokenizer")
    counts = token_bytes(tokenizer, len(tokenizer))
    ids = tokenizer(TEXT).input_ids
    assert int(counts[ids].sum()) == len(TEXT.encode())
    assert len(ids) > len(TEXT) / 3  # parts of characters among them
    assert counts[tokenizer.eos_token_id] == 0


def test_bytes_of_sentencepiece_tokens() -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<s>": 1, "▁": 2, "▁ab": 3, "é": 4, **{f"<0x{b:02X}>": 5 + b for b in range(256)}}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    wrap: Any = PreTrainedTokenizerFast
    tokenizer = wrap(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>")
    text = " é é😀"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert int(token_bytes(tokenizer, 300)[ids].sum()) == len(text.encode())
    assert token_bytes(tokenizer, 300)[:5].tolist() == [0, 0, 1, 3, 2]
