"""Whether a model and the data speak the same token ids."""

import warnings
from pathlib import Path


def check_same_tokenizer(model: str, revision: str, data_tokenizer: Path, gguf_file: str | None = None) -> None:
    """Compare a model's tokenizer with the data's, id by id.

    A folder without a tokenizer is taken at its word, with a warning.

    Args:
        model: Folder or hub name of the teacher, or of the pretrained student.
        revision: Branch, tag or commit on the hub.
        data_tokenizer: Folder of the tokenizer that the data were made with.
        gguf_file: Name of a GGUF file in `model` that the tokenizer is in; by default it is beside the weights.

    Raises:
        ValueError: If an id of the data means another token to the model.
    """
    from transformers import AutoTokenizer

    options = {} if gguf_file is None else {"gguf_file": gguf_file}
    if not options and Path(model).is_dir() and not (Path(model) / "tokenizer.json").exists():
        warnings.warn(f"Whether {model} uses the data's tokenizer is not checked: it has none.", stacklevel=2)
        return
    try:
        theirs = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=False, **options).get_vocab()
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        warnings.warn(f"Whether {model} uses the data's tokenizer is not checked: {reason}", stacklevel=2)
        return
    ours = AutoTokenizer.from_pretrained(str(data_tokenizer), trust_remote_code=False).get_vocab()
    different = sum(theirs.get(token) != token_id for token, token_id in ours.items())
    if different:
        raise ValueError(
            f"Model and data must use the same tokenizer, got {different} of {len(ours)} tokens with another id in "
            f"{model}. Run `pd-lightning tokenize` with tokenizer {model}, or name a model that "
            "was trained with the data's tokenizer."
        )
