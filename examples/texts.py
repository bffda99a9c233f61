"""The project's data: its own tokenizer, its own layout of a batch."""

import sysconfig
from pathlib import Path

import lightning.pytorch as pl
import torch
from project import BLOCK_SIZE
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


class Texts(pl.LightningDataModule):
    """Pairs of token ids and the next tokens, int64 [B, T] each, of some of Python's own modules."""

    tokenizer_dir = "tokenizer"

    def prepare_data(self) -> None:
        letters = {letter: id for id, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        tokenizer = Tokenizer(models.BPE(letters, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(self.tokenizer_dir)

    def setup(self, stage: str) -> None:
        library = Path(sysconfig.get_paths()["stdlib"])
        text = "".join((library / f"{name}.py").read_text() for name in ("ast", "inspect"))
        ids = torch.tensor(PreTrainedTokenizerFast.from_pretrained(self.tokenizer_dir)(text).input_ids)
        self.blocks = [(block[:-1], block[1:]) for block in ids.split(BLOCK_SIZE + 1)[:-1]]

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(self.blocks[:-64], batch_size=16, shuffle=True)

    def val_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(self.blocks[-64:], batch_size=16)
