from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

from pd_lightning.data import TokenBlocks
from pd_lightning.teachers import FrozenTeacher, NoTeacher, OfflineTeacher, Surroundings
from pd_lightning.tokenizers import check_same_tokenizer

CPU = torch.device("cpu")


def test_frozen_teacher_is_the_model_without_gradients(teacher_dir: Path) -> None:
    teacher = FrozenTeacher(str(teacher_dir))
    teacher.setup(Surroundings(CPU))
    assert not isinstance(teacher, nn.Module)
    assert not teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    input_ids = torch.arange(10).view(2, 5)
    rows = teacher({"input_ids": input_ids}).rows(slice(None))
    torch.testing.assert_close(rows.logprobs, teacher.model(input_ids).flatten(0, 1).log_softmax(-1).detach())


def test_frozen_teacher_computes_in_its_own_dtype_under_autocast(teacher_dir: Path) -> None:
    for dtype, expected in (("bfloat16", torch.bfloat16), ("auto", torch.float32)):
        teacher = FrozenTeacher(str(teacher_dir), dtype=dtype)  # type: ignore[arg-type]
        teacher.setup(Surroundings(CPU))
        with torch.autocast("cpu", dtype=torch.float16):
            targets = teacher({"input_ids": torch.zeros(1, 4, dtype=torch.long)})
            assert targets.hidden.dtype == expected
            assert targets.rows(slice(None)).logprobs.dtype == torch.float32


def test_frozen_teacher_computes_where_it_is_told_to(teacher_dir: Path) -> None:
    """A student on the meta device has its logits there, and the teacher stays where it can compute."""
    student = torch.device("meta")
    placed, beside = FrozenTeacher(str(teacher_dir), device="cpu"), FrozenTeacher(str(teacher_dir))
    for teacher, expected in ((placed, CPU), (beside, student)):
        teacher.setup(Surroundings(student))
        assert {parameter.device for parameter in teacher.model.parameters()} == {expected}
    targets = placed({"input_ids": torch.zeros(1, 4, dtype=torch.long)})
    assert targets.hidden.device == CPU
    assert targets.hidden.isfinite().all()
    assert targets.rows(slice(None)).logprobs.device == student


def test_frozen_teacher_describes_its_weights(teacher_dir: Path) -> None:
    digests = []
    for change in (0, 0, 1):
        teacher = FrozenTeacher(str(teacher_dir))
        teacher.setup(Surroundings(CPU))
        with torch.no_grad():
            next(teacher.model.parameters()).view(-1)[0] += change
        digests.append(teacher.describe()["weights_digest"])
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("surroundings", "message"),
    [
        ({"vocab_size": 1000}, "must share a vocabulary, got 300 and 1000 ids, and no .* Set model.student"),
        ({"block_size": 64}, "must fit into the teacher's context, got 64 positions for 32"),
    ],
)
def test_frozen_teacher_refuses_what_does_not_fit(teacher_dir: Path, surroundings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrozenTeacher(str(teacher_dir)).setup(Surroundings(CPU, **surroundings))


@pytest.mark.parametrize(
    ("student", "teacher", "tokens", "shared"),
    [
        (300, 300, 290, None),
        (300, 300, None, None),
        (None, 320, 300, None),
        (320, None, 300, None),
        (300, 320, 300, 300),
        (384, 320, 300, 320),
        (320, 384, 320, 320),
    ],
)
def test_widths_that_differ_by_padding_share_the_smaller_one(
    student: int | None, teacher: int | None, tokens: int | None, shared: int | None
) -> None:
    surroundings = Surroundings(CPU, student, tokenizer_vocab_size=tokens)
    assert surroundings.shared_with(teacher) == shared


@pytest.mark.parametrize(
    ("student", "teacher", "tokens", "message"),
    [
        (320, 300, None, "got 300 and 320 ids, and no number of tokens .*Set .*vocab_size to 300, or tokenize and rec"),
        (
            320,
            300,
            310,
            "got 300 and 320 ids for 310 tokens. Set model.teacher, or the data's store, and model.stud",
        ),
        (300, 320, 310, "got 320 and 300 ids for 310 tokens"),
    ],
)
def test_widths_that_differ_by_more_are_refused(student: int, teacher: int, tokens: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=f"Teacher and student must share a vocabulary, {message}"):
        Surroundings(CPU, student, tokenizer_vocab_size=tokens).shared_with(teacher)


def test_each_teacher_says_how_many_ids_it_shares(teacher_dir: Path) -> None:
    frozen, offline = FrozenTeacher(str(teacher_dir)), OfflineTeacher()
    padded = Surroundings(CPU, 320, "logits", data_vocab_size=384, tokenizer_vocab_size=300)
    frozen.setup(padded)
    offline.setup(padded)
    assert (frozen.shared_vocab_size, offline.shared_vocab_size) == (300, 320)
    for teacher in (frozen, offline):
        equal = Surroundings(CPU, 300, "logits", data_vocab_size=300, tokenizer_vocab_size=300)
        teacher.setup(equal)
        assert teacher.shared_vocab_size is None
    assert NoTeacher.shared_vocab_size is None


def test_frozen_teacher_keeps_to_documents_that_are_isolated(teacher_dir: Path) -> None:
    teacher = FrozenTeacher(str(teacher_dir))
    teacher.setup(Surroundings(CPU, document_attention="isolated"))
    input_ids, position_ids = torch.arange(12).view(2, 6), torch.tensor([[0, 1, 0, 1, 2, 3], [0, 1, 2, 3, 0, 1]])
    batch = {"input_ids": input_ids, "position_ids": position_ids}
    found = teacher(batch).rows(slice(None)).logprobs.view(2, 6, -1)
    for row, cut in ((0, 2), (1, 4)):
        for part in (slice(0, cut), slice(cut, 6)):
            alone = teacher.model(input_ids[row : row + 1, part])[0].log_softmax(-1)
            torch.testing.assert_close(found[row, part], alone.detach(), rtol=1e-5, atol=1e-5)


class Sums(nn.Module):
    """Looks back over everything, and takes no positions."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 9)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.table(input_ids).cumsum(1)


def test_frozen_teacher_that_cannot_isolate_is_refused() -> None:
    FrozenTeacher(Sums()).setup(Surroundings(CPU))
    with pytest.raises(ValueError, match=r"The teacher must keep to one document .* got Sums, which does not"):
        FrozenTeacher(Sums()).setup(Surroundings(CPU, document_attention="isolated"))


def test_another_tokenizer_is_found_out(teacher_dir: Path, blocks: Path, tmp_path: Path) -> None:
    check_same_tokenizer(str(teacher_dir), "main", blocks / "tokenizer")
    other = AutoTokenizer.from_pretrained(blocks / "tokenizer")
    other.add_tokens(["another"])
    other.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"must use the same tokenizer, got 1 of 301 tokens with another id"):
        check_same_tokenizer(str(teacher_dir), "main", tmp_path)


def test_offline_teacher_reads_the_batch(truncated_store: Path) -> None:
    data = TokenBlocks(str(truncated_store), batch_size=3)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    targets = OfflineTeacher()(batch)
    used = targets.logprobs > -torch.inf
    assert targets.ids.shape == (3 * 16, batch["teacher_ids"].shape[-1])
    assert torch.equal(targets.ids[used], batch["teacher_ids"].flatten(0, 1)[used])
    assert set(targets.statistics) == {"log_z", "mean", "std", "entropy", "label_logprob"}
    mass = targets.logprobs.exp().sum(-1) + targets.log_tail.exp()
    torch.testing.assert_close(mass, torch.ones(48), rtol=0, atol=1e-5)
    for row in range(48):  # an unused slot repeats an id of its row
        assert set(targets.ids[row].tolist()) == set(targets.ids[row][used[row]].tolist())


def test_offline_teacher_needs_a_store() -> None:
    with pytest.raises(ValueError, match="must have a logit store to read, got plain token blocks"):
        OfflineTeacher().setup(Surroundings(CPU, data_kind="blocks"))
    with pytest.raises(ValueError, match="must share a vocabulary, got 300 and 500 ids"):
        OfflineTeacher().setup(Surroundings(CPU, vocab_size=500, data_kind="logits", data_vocab_size=300))
    with pytest.raises(ValueError, match="must find stored targets in each batch, got none of teacher_ids"):
        OfflineTeacher()({"input_ids": torch.zeros(1, 2)})


def test_no_teacher_gives_nothing() -> None:
    assert NoTeacher()({}) is None
    assert NoTeacher().describe() == {"kind": "NoTeacher"}
