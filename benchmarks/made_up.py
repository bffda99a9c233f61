"""Made-up text, the logit store of it, and models: what benchmarks of training run on, without a network."""

from __future__ import annotations

import logging
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pd_lightning.cli.quiet import quieten
from pd_lightning.data import TokenBlocks, bpe
from pd_lightning.data.pack import Packer
from pd_lightning.data.split import SplitWriter
from pd_lightning.language_model import build_causal_lm
from pd_lightning.record import Recorder
from pd_lightning.selection import Selection
from pd_lightning.store import chunks
from pd_lightning.store.manifest import Manifest, TokenizerInfo, tokenizer_digest
from pd_lightning.teachers import FrozenTeacher
from pd_lightning.trainer import PDTrainer

QUIET: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
_DOCUMENT = 1024  # tokens


def be_quiet() -> None:
    """Leave out what Lightning tells at each of many starts."""
    quieten()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="GPU available but not used")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")


def llama(size: str, vocab_size: int, context: int, tied: bool = True) -> nn.Module:
    """A Llama of `hidden x layers` with weights of seed 0, float32."""
    hidden, layers = (int(number) for number in size.split("x"))
    heads = max(1, hidden // 64)
    config = {"hidden_size": hidden, "intermediate_size": hidden * 8 // 3 // 16 * 16, "num_hidden_layers": layers}
    config |= {"num_attention_heads": heads, "num_key_value_heads": heads, "max_position_embeddings": context}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_causal_lm({"model_type": "llama", "vocab_size": vocab_size, "tie_word_embeddings": tied, **config})


def teacher(size: str, vocab_size: int, context: int) -> nn.Module:
    """A Llama whose logits spread as widely as those of a trained one, so that it is as sure of the next token."""
    model: Any = llama(size, vocab_size, context, tied=False).eval()
    with torch.no_grad():
        spread = model(torch.arange(min(64, context, vocab_size))[None]).logits.std()
        # Where normal logits begin to put their mass on a few ids, whatever the vocabulary.
        model.get_output_embeddings().weight.mul_(math.sqrt(2 * math.log(vocab_size)) / spread)
    return model


def write_blocks(folder: Path, num_blocks: int, block_size: int, vocab_size: int) -> Path:
    """A folder of token blocks, as `pd-lightning tokenize` writes it, of ids by Zipf's law."""
    bpe.train(["Some text for a tokenizer. "], 300, bpe.EOS_TOKEN, 1000, block_size, folder / "tokenizer")
    eos = bpe.load(folder / "tokenizer").eos_token_id
    writer = SplitWriter(folder / "train", Packer(block_size, eos), vocab_size, blocks_per_chunk=None)
    rng = np.random.default_rng(0)
    left = num_blocks * block_size + 1
    while left > 0:
        length = min(_DOCUMENT, left) - 1
        writer.add((vocab_size ** rng.random(length)).astype(np.int64) - 1, 0)
        left -= length + 1
    info = TokenizerInfo(tokenizer_digest(folder), eos, vocab_size=vocab_size)
    chunks.finish(folder, Manifest("blocks", block_size, vocab_size, info, {"train": writer.close()}))
    return folder


def record(folder: Path, blocks: Path, model: nn.Module, device: str, p: float = 0.95, k: int = 50) -> Path:
    """The logit store of all blocks, by the model as a teacher."""
    recorder = Recorder(FrozenTeacher(model), str(folder), Selection(p, k), "half", splits=("train",))
    trainer = PDTrainer(accelerator=device, devices=1, default_root_dir=folder.parent, **QUIET)
    trainer.record(recorder, TokenBlocks(str(blocks), batch_size=8))
    return folder
