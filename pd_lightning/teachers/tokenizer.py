"""Whether a model and the data speak the same token ids."""

from pathlib import Path


def check_same_tokenizer(model: str, revision: str, data_tokenizer: Path) -> None:
    """Compare a teacher's tokenizer with the data's, id by id.

    A teacher's folder without a tokenizer is taken at its word.

    Args:
        model: Folder or hub name of the teacher.
        revision: Branch, tag or commit on the hub.
        data_tokenizer: Folder of the tokenizer that the data were made with.

    Raises:
        ValueError: If an id of the data means another token to the teacher.
    """
    from transformers import AutoTokenizer

    if Path(model).is_dir() and not (Path(model) / "tokenizer.json").exists():
        return
    try:
        theirs = AutoTokenizer.from_pretrained(model, revision=revision).get_vocab()
    except (OSError, ValueError):
        return
    ours = AutoTokenizer.from_pretrained(str(data_tokenizer)).get_vocab()
    different = sum(theirs.get(token) != token_id for token, token_id in ours.items())
    if different:
        raise ValueError(
            f"Teacher and data must use the same tokenizer, got {different} of {len(ours)} tokens with another id in "
            f"{model}. Run `pd-lightning tokenize` with tokenizer {model}, or set model.teacher.init_args.model to a "
            "teacher trained with the data's tokenizer."
        )
