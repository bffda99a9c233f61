"""A Lightning project as it may stand before pd-lightning comes to it: a GPT in plain PyTorch, and its module."""

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCAB_SIZE, BLOCK_SIZE = 257, 64


class GPT(nn.Module):
    def __init__(self, dim: int = 32, num_layers: int = 2, num_heads: int = 4) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB_SIZE, dim), nn.Embedding(BLOCK_SIZE, dim)
        layer = nn.TransformerEncoderLayer(dim, num_heads, 4 * dim, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.lm_head = nn.Linear(dim, VOCAB_SIZE)

    def forward(self, input_ids: Tensor) -> Tensor:
        T = input_ids.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(T, device=input_ids.device)
        x = self.layers(self.tokens(input_ids) + self.positions.weight[:T], mask, is_causal=True)
        return self.lm_head(x)


class LitGPT(pl.LightningModule):
    def __init__(self, dim: int = 32, num_layers: int = 2) -> None:
        super().__init__()
        self.model = GPT(dim, num_layers)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        input_ids, next_ids = batch
        return F.cross_entropy(self.model(input_ids).flatten(0, 1), next_ids.flatten())

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)
