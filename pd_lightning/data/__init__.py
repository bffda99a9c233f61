"""Text in, token blocks out: sources, tokenizing, packing, and the order in which blocks are read."""

from typing import TYPE_CHECKING, Any

from pd_lightning.data.mix import MixedIn
from pd_lightning.data.sources import HuggingFace, JSONLines, Parquet, Source, StandardLibrary, TextFiles

if TYPE_CHECKING:
    from pd_lightning.data.blocks import TokenBlocks

__all__ = [
    "HuggingFace",
    "JSONLines",
    "MixedIn",
    "Parquet",
    "Source",
    "StandardLibrary",
    "TextFiles",
    "TokenBlocks",
]


def __getattr__(name: str) -> Any:
    # Lightning takes seconds to import, and `pd-lightning tokenize` has no use for it.
    if name == "TokenBlocks":
        from pd_lightning.data.blocks import TokenBlocks

        return TokenBlocks
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
