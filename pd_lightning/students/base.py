"""The interface of a student that is described before it is made."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch

from pd_lightning.language_model import LanguageModel


class Student(ABC):
    """Describes a model to be trained. It holds settings alone: weights are made when the Trainer asks for them."""

    @abstractmethod
    def build(self, defaults: dict[str, Any]) -> LanguageModel:
        """Make the model.

        Args:
            defaults: Fields of a configuration that the data knows: `vocab_size`, `eos_token_id`, …
        """

    def outline(self, defaults: dict[str, Any]) -> LanguageModel:
        """Make the model without its weights, on the meta device, for `pd-lightning plan`.

        Args:
            defaults: As of `build`.
        """
        with torch.device("meta"):
            return self.build(defaults)

    def check(self, tokenizer_dir: Path | None) -> None:
        """Refuse data of another tokenizer than the student knows; one that starts from nothing knows none.

        Args:
            tokenizer_dir: Folder of the data's tokenizer, or None where the data have none.

        Raises:
            ValueError: If the tokenizers differ.
        """
