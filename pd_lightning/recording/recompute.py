"""Running the live teacher on blocks of a store, to see whether it says what the store says."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pd_lightning.data.batch import BlockDataset, collate
from pd_lightning.selection import rows_at_a_time, statistics_of
from pd_lightning.store.manifest import Manifest
from pd_lightning.store.reader import BlockReader
from pd_lightning.store.safety import verify_layout
from pd_lightning.targets import HiddenTargets
from pd_lightning.teachers import FrozenTeacher, Surroundings, Teacher, TeacherEnsemble

_Figures = dict[str, Tensor]


def recompute(folder: str | Path, num_blocks: int, teacher: str | None = None, seed: int = 0) -> dict[str, Any]:
    """Compare a store with its teacher on random blocks.

    Args:
        folder: The logit store.
        num_blocks: How many blocks, over all splits; all where there are fewer.
        teacher: Folder or hub name of the teacher; by default the one that the manifest names.
        seed: Of the choice of blocks.

    Returns:
        `teacher`, its name; `same_weights`, whether its weights have the digest in the manifest; `blocks` and `tokens`
        that were compared; `mean_kl`, of the stored from the live targets in nats, what is not kept being one entry
        (None where ids were drawn at random); `worst`, for `kl`, `logprobs`, `tail` (a probability) and each column
        the largest absolute `difference`, and in which `split`, `block` and `position`.

    Raises:
        ValueError: If the folder is no logit store, or its teacher can't be run again.
    """
    manifest = verify_layout(folder)
    model = _load(manifest, str(folder), teacher)
    used = [name for name, split in manifest.splits.items() if split.num_blocks]
    readers = {name: BlockReader(folder, name, manifest=manifest) for name in used}
    places = [(name, block) for name, reader in readers.items() for block in range(len(reader))]
    chosen = np.random.default_rng(seed).permutation(len(places))[:num_blocks]
    worst: dict[str, dict[str, Any]] = {}
    total_kl = 0.0
    for split, block in sorted(places[index] for index in chosen):
        differences = _compare(BlockDataset(readers[split]), block, model)
        total_kl += float(differences["kl"].sum()) if "kl" in differences else math.nan
        for name, values in differences.items():
            position = int(values.argmax())
            if name not in worst or float(values[position]) > worst[name]["difference"]:
                difference = float(values[position])
                worst[name] = {"difference": difference, "split": split, "block": block, "position": position}
    tokens = len(chosen) * manifest.block_size
    digest = (manifest.teacher or {}).get("weights_digest")
    return {
        "teacher": model.name,
        "same_weights": digest == model.describe()["weights_digest"],
        "blocks": len(chosen),
        "tokens": tokens,
        "mean_kl": None if math.isnan(total_kl) else total_kl / tokens,
        "worst": worst,
    }


def _load(manifest: Manifest, folder: str, name: str | None) -> FrozenTeacher | TeacherEnsemble:
    if manifest.kind != "logits" or manifest.teacher_steps:
        found = "token blocks" if manifest.kind != "logits" else "logits of a teacher that was still training"
        raise ValueError(
            f"The folder to recompute must be a store of a frozen teacher's logits, got {folder} with {found}. Leave "
            "out --recompute."
        )
    recorded = manifest.teacher or {}
    if name is None and "name" not in recorded:
        raise ValueError(f"The teacher of {folder} must be named, got a manifest without. Set --teacher.")
    teacher = _recorded_teacher(recorded if name is None else {**recorded, "name": name, "teachers": None})
    teacher.setup(
        Surroundings(
            device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            tokenizer_vocab_size=manifest.tokenizer_vocab_size,
            tokenizer_dir=Path(folder) / "tokenizer",
            block_size=manifest.block_size,
            document_attention=manifest.document_attention,
        )
    )
    if teacher.vocab_size != manifest.vocab_size:
        raise ValueError(
            f"The teacher must have the vocabulary of the store, got {teacher.vocab_size} ids for "
            f"{manifest.vocab_size}. Set --teacher to the model that the store was recorded with."
        )
    return teacher


def _recorded_teacher(described: dict[str, Any]) -> FrozenTeacher | TeacherEnsemble:
    """Give the teacher that `describe` said this of."""
    if parts := described.get("teachers"):
        teachers: dict[str, Teacher] = {name: _recorded_teacher(part) for name, part in parts.items()}
        return TeacherEnsemble(teachers, described["weights"], described["mean"])
    options = {name: described[name] for name in ("revision", "gguf_file", "quantization") if name in described}
    return FrozenTeacher(described["name"], described.get("dtype", "auto"), **options)


@torch.no_grad()
def _compare(dataset: BlockDataset, block: int, teacher: Teacher) -> _Figures:
    """Absolute differences of one block at each position, float `[T]`, by name."""
    item = dataset.block(block)
    batch = collate([item])
    targets = teacher(batch)
    assert isinstance(targets, HiddenTargets)
    manifest = dataset.reader.manifest
    live = _live(targets, torch.from_numpy(item["block"][1:]), batch["teacher_ids"][0])
    names = [name for name in manifest.columns if name in live]
    differences = {name: (batch[f"teacher_{name}"][0] - live[name]).abs() for name in names}
    if manifest.sampled:
        return differences
    stored, tail = batch["teacher_logprobs"][0], batch["teacher_log_tail"][0].exp()
    kept = stored > -torch.inf
    logprobs = live["logprobs"].masked_fill(~kept, -torch.inf)
    live_tail = (1 - logprobs.exp().sum(dim=-1)).clamp(min=0)
    differences["logprobs"] = torch.where(kept, stored - logprobs, 0.0).abs().amax(dim=-1)
    differences["tail"] = (tail - live_tail).abs()
    differences["kl"] = (_kl(logprobs.exp(), stored.exp()).sum(dim=-1) + _kl(live_tail, tail)).abs()
    if "teacher_missing" in batch:
        missing = batch["teacher_missing"][0]
        differences = {name: values.masked_fill(missing, 0.0) for name, values in differences.items()}
    return differences


def _live(targets: HiddenTargets, labels: Tensor, ids: Tensor) -> _Figures:
    """The teacher's figures `[T]`, and its log-probabilities of the stored ids `[T, K]`."""
    hidden, device = targets.hidden, targets.hidden.device
    size = rows_at_a_time(hidden, targets.head)
    parts = []
    for start in range(0, len(hidden), size):
        rows = slice(start, start + size)
        logits = targets.head(hidden[rows]).float()
        figures = statistics_of(logits, labels[rows].to(device))
        figures["logprobs"] = logits.gather(-1, ids[rows].to(device)) - figures["log_z"].unsqueeze(-1)
        parts.append(figures)
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """Terms p·log(p/q); a rounded tail can be 0 where there is a little mass left, which is not worth infinity."""
    floor = torch.finfo(torch.float32).tiny
    return p * (p.clamp(min=floor) / q.clamp(min=floor)).log()
