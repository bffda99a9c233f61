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
        ({"vocab_size": 1000}, "must share a vocabulary, got 300 and 1000 ids. Set model.student"),
        ({"block_size": 64}, "must fit into the teacher's context, got 64 positions for 32"),
    ],
)
def test_frozen_teacher_refuses_what_does_not_fit(teacher_dir: Path, surroundings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrozenTeacher(str(teacher_dir)).setup(Surroundings(CPU, **surroundings))


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
    with pytest.raises(ValueError, match="must share a vocabulary, got 300 ids in the store and 500 of the student"):
        OfflineTeacher().setup(Surroundings(CPU, vocab_size=500, data_kind="logits", data_vocab_size=300))
    with pytest.raises(ValueError, match="must find stored targets in each batch, got none of teacher_ids"):
        OfflineTeacher()({"input_ids": torch.zeros(1, 2)})


def test_no_teacher_gives_nothing() -> None:
    assert NoTeacher()({}) is None
    assert NoTeacher().describe() == {"kind": "NoTeacher"}
