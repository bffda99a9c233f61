"""Text in, token blocks out: sources, tokenizing, packing, and the order in which blocks are read."""

from typing import TYPE_CHECKING, Any

from pd_lightning.data.hugging_face_tokens import HuggingFaceTokens
from pd_lightning.data.litdata_tokens import LitData
from pd_lightning.data.megatron import MegatronIndexed
from pd_lightning.data.mix import MixedIn
from pd_lightning.data.nano_gpt import NanoGPT
from pd_lightning.data.sources import HuggingFace, JSONLines, Parquet, Source, TextFiles
from pd_lightning.data.standard_library import StandardLibrary, StandardLibraryCode, StandardLibraryDocs
from pd_lightning.data.token_sources import Document, TokenSource

if TYPE_CHECKING:
    from pd_lightning.data.blocks import TokenBlocks

__all__ = [
    "Document",
    "HuggingFace",
    "HuggingFaceTokens",
    "JSONLines",
    "LitData",
    "MegatronIndexed",
    "MixedIn",
    "NanoGPT",
    "Parquet",
    "Source",
    "StandardLibrary",
    "StandardLibraryCode",
    "StandardLibraryDocs",
    "TextFiles",
    "TokenBlocks",
    "TokenSource",
]


def __getattr__(name: str) -> Any:
    # Lightning takes seconds to import, and `pd-lightning tokenize` has no use for it.
    if name == "TokenBlocks":
        from pd_lightning.data.blocks import TokenBlocks

        return TokenBlocks
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
