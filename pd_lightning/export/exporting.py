"""Export: from a checkpoint to a folder that other tools load."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pd_lightning.checkpoints import load_checkpoint
from pd_lightning.export.model_card import model_card
from pd_lightning.export.portable import make_portable
from pd_lightning.redaction import refuse_redacted
from pd_lightning.store.durable import temporary_beside

PREFIX = "student.model."  # of the student's weights in a checkpoint
_WEIGHTS = "model.safetensors"
_RECIPE = "student.yaml"
_SUFFIXES = (".safetensors", ".json", ".jinja", ".yaml", ".md", ".txt", ".model")


def export(
    ckpt_path: str,
    output_dir: str,
    tokenizer: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    overwrite: bool = False,
) -> None:
    """Write the student of a checkpoint as a Hugging Face folder: weights, configuration, tokenizer, model card.

    `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` load it without a network. A student
    that is no Hugging Face model becomes safetensors and YAML, and `pd_lightning.export.load_student` loads it.

    Args:
        ckpt_path: Checkpoint of a `pd-lightning fit` run, a file or a folder, runs/demo/lm/checkpoints/last.ckpt say.
        output_dir: Folder to write; it must not exist yet.
        tokenizer: Folder or hub name of the tokenizer to put beside the weights; by default the one of the data that
            the student was trained on.
        dtype: Data type of the exported weights.
        overwrite: Replace output_dir where it exists.

    Raises:
        FileNotFoundError: If the checkpoint, or its tokenizer, is not there.
        ValueError: If it is no checkpoint of a distilled student, or output_dir exists.
    """
    config = Path(ckpt_path).parent.parent / "config.yaml"
    write_export(read_checkpoint(ckpt_path), Path(output_dir), config, tokenizer, dtype, overwrite)
    print(f"Exported {ckpt_path} to {output_dir}")


def write_export(
    checkpoint: Mapping[str, Any],
    output_dir: Path,
    config: Path,
    tokenizer: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    overwrite: bool = False,
) -> None:
    """Write the student of a checkpoint that is in memory, whole or not at all.

    Args:
        checkpoint: With `state_dict`, `global_step` and `pd_lightning`, as of DistillationModule.
        output_dir: As of `export`.
        config: The run's config.yaml: of a student that is no Hugging Face model it tells the class.
        tokenizer: As of `export`.
        dtype: As of `export`.
        overwrite: As of `export`.

    Raises:
        FileNotFoundError: If the tokenizer, or the config that is needed, is not there.
        ValueError: If output_dir exists.
    """
    import torch

    state = {
        name.removeprefix(PREFIX): tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(PREFIX)
    }
    with _whole_folder(output_dir, overwrite) as folder:
        if checkpoint["pd_lightning"]["student_config"] is not None:
            _export_hf(checkpoint, state, dtype, folder)
        else:
            _export_module(config, state, folder)
        _export_tokenizer(tokenizer or checkpoint["pd_lightning"]["tokenizer"], folder)
        (folder / "README.md").write_text(model_card(checkpoint, output_dir.name, dtype), encoding="utf-8")
        make_portable(folder)


def read_checkpoint(ckpt_path: str) -> dict[str, Any]:
    """Load a checkpoint of a `pd-lightning fit` run, without pickle.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such checkpoint.
    """
    from pd_lightning.checkpoints.sharded import read_shards

    if Path(ckpt_path).is_dir():
        checkpoint = read_shards(Path(ckpt_path), optimizers=False)
    else:
        checkpoint = load_checkpoint(ckpt_path, "--ckpt_path", map_location="cpu", mmap=True)
    if "pd_lightning" not in checkpoint:
        raise ValueError(
            f"--ckpt_path must be a checkpoint of DistillationModule, got {ckpt_path}, which is another module's. "
            "Set --ckpt_path to a file that `pd-lightning fit` wrote."
        )
    return checkpoint


def load_student(folder: str | Path, trust_remote_code: bool = False) -> Any:
    """Load an exported student that is no Hugging Face model.

    Args:
        folder: What `export` wrote.
        trust_remote_code: Import and call the class that the folder's `student.yaml` names. Only for folders of your
            own, or after a look at that file.

    Returns:
        The `nn.Module`, in evaluation mode.

    Raises:
        ValueError: If `trust_remote_code` is not set.
    """
    from safetensors.torch import load_model

    recipe = Path(folder) / _RECIPE
    if not trust_remote_code:
        raise ValueError(
            f"load_student must be told to run what {recipe} names, got trust_remote_code false. Look at that file, "
            "and set trust_remote_code to true where you trust it."
        )
    student = _instantiate(recipe.read_text(encoding="utf-8"))
    load_model(student, Path(folder) / _WEIGHTS)
    return student.eval()


@contextmanager
def _whole_folder(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write into, which gets its name when all is in it."""
    if folder.exists() and not overwrite:
        raise ValueError(
            f"output_dir must not exist yet, got {str(folder)!r}. Set another --output_dir, or --overwrite true."
        )
    if folder.exists() and not is_export(folder):
        raise ValueError(
            f"--overwrite must find an earlier export, got {str(folder)!r}, which holds other things. Set another "
            "--output_dir."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(folder)
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_export(folder: Path) -> bool:
    """Whether a folder holds what an export holds and nothing else, so that replacing it loses nothing."""
    names = {path.name for path in folder.iterdir()}
    config = "config.json" in names or _RECIPE in names
    flat = all(path.is_file() and path.suffix in _SUFFIXES for path in folder.iterdir())
    return not names or (config and "README.md" in names and flat)


def _export_hf(checkpoint: Mapping[str, Any], state: dict[str, Any], dtype: str, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = dict(checkpoint["pd_lightning"]["student_config"])
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), trust_remote_code=False)
    model.load_state_dict(state)
    # Padding is for batches in generation alone, see `student_defaults`.
    model.generation_config.pad_token_id = config.eos_token_id
    model.save_pretrained(folder)


def _export_module(config_path: Path, state: dict[str, Any], folder: Path) -> None:
    """Write safetensors, and beside them how to make the module: its class_path and init_args."""
    import yaml
    from safetensors.torch import save_model

    if not config_path.is_file():
        raise FileNotFoundError(
            f"The run's config.yaml must tell the student's class, got none at {config_path}. Leave the checkpoint in "
            "its run folder."
        )
    recipe = yaml.safe_dump(yaml.safe_load(config_path.read_text(encoding="utf-8"))["model"]["student"])
    student = _instantiate(recipe)
    student.load_state_dict(state)
    save_model(student, str(folder / _WEIGHTS))
    (folder / _RECIPE).write_text(recipe, encoding="utf-8")


def _instantiate(recipe: str) -> Any:
    from jsonargparse import ArgumentParser
    from torch import nn

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "student")
    import yaml

    settings = {"student": yaml.safe_load(recipe)}
    refuse_redacted(settings)
    return parser.instantiate(parser.parse_object(settings)).student


def _export_tokenizer(tokenizer: str | None, folder: Path) -> None:
    if tokenizer is None:
        return
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False).save_pretrained(folder)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"The student's tokenizer must be at hand, got {tokenizer!r}, which does not load. Set --tokenizer to its "
            "folder, <data folder>/tokenizer say."
        ) from error
