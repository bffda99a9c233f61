"""The frozen teacher: targets computed on the fly."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from pd_lightning.language_model import LanguageModel
from pd_lightning.language_model.isolation import logits_width
from pd_lightning.language_model.pretrained import load_pretrained, outline_pretrained
from pd_lightning.sharding import shard_frozen
from pd_lightning.targets import Form, HiddenTargets
from pd_lightning.targets.heads import Head, LinearHead
from pd_lightning.teachers.base import Batch, Surroundings, Teacher
from pd_lightning.teachers.quantization import Quantization, check_torchao, quantize
from pd_lightning.tokenizers import check_same_tokenizer


class FrozenTeacher(Teacher):
    """A trained model that computes its targets for each batch, without gradients, in evaluation mode.

    Args:
        model: Folder or hub name of a Hugging Face causal model, or any `nn.Module` from token ids `[B, T]` to logits
            `[B, T, V]`.
        dtype: Data type that it computes in; `auto` for the one that its weights are stored in.
        device: Where it computes, whole; by default the student's device, or spread over all ranks where the strategy
            shards (FSDP2Strategy).
        revision: Branch, tag or commit of a model from the hub.
        trust_remote_code: Run model code that comes with the pretrained model. Only for models you trust.
        gguf_file: Name of a GGUF file in the folder `model`, to read in place of safetensors; its weights become dense.
        quantization: Keep the weights of linear layers in 8 or 4 bits, by torchao: less memory, and another teacher, as
            manifests and checkpoints say.
    """

    def __init__(
        self,
        model: str | nn.Module,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        device: str | None = None,
        revision: str = "main",
        trust_remote_code: bool = False,
        gguf_file: str | None = None,
        quantization: Quantization | None = None,
    ) -> None:
        check_torchao(quantization)
        self.name = model if isinstance(model, str) else type(model).__name__
        self.dtype = dtype
        self.device = _known_device(device)
        self.revision = revision
        self.trust_remote_code = trust_remote_code
        self.gguf_file = gguf_file
        self.quantization: Quantization | None = quantization
        self._module = None if isinstance(model, str) else model
        self._model: LanguageModel | None = None
        self._student_device = torch.device("cpu")
        self._is_here = False
        self._digest: str | None = None
        self._width: int | None = None

    @property
    def model(self) -> LanguageModel:
        """The model; `setup` loads it."""
        assert self._model is not None, "setup comes first"
        return self._model

    @property
    def form(self) -> Form:
        """All ids, and all statistics."""
        return Form("dense", vocab_size=None if self._model is None else self.shared_vocab_size or self.vocab_size)

    @property
    def vocab_size(self) -> int | None:
        """Width of the teacher's logits, or None where the model does not tell."""
        return self.model.vocab_size or self._width

    def setup(self, surroundings: Surroundings) -> None:
        """Load the weights, freeze them, and move them to their device.

        Raises:
            FileNotFoundError: If there is no such model.
            ValueError: If its vocabulary or tokenizer is not the student's, its context is too short, or it can't
                keep to one document where it must.
        """
        _check_device(self.device)
        mesh = surroundings.device_mesh if self.device is None else None
        loaded = self._model is not None
        if self._model is None:
            self._model = LanguageModel(self._load()).eval().requires_grad_(False)
        if mesh is None:
            self._model.to(self.device or surroundings.device)
        if self.quantization is not None and not loaded:
            quantize(self._model.model, self.quantization, sharded=mesh is not None)
        # Then its logits can be made where the student's are.
        self._is_here = mesh is None and next(self._model.parameters()).device == surroundings.device
        self._student_device = surroundings.device
        if not loaded and self._model.vocab_size is None:
            self._width = logits_width(self._model, self._model)
        self._check_fit(surroundings, isolation=not (mesh and loaded))
        if mesh is not None and not loaded:
            self._digest = _digest(self._model)  # while each rank still has all weights
            shard_frozen(self._model, mesh)

    def rehearse(self, surroundings: Surroundings) -> None:
        """Check what `setup` checks, but for the device, with a model that has no weights.

        Raises:
            FileNotFoundError: As of `setup`.
            ValueError: As of `setup`.
        """
        if self._module is None:
            options = {"revision": self.revision, "trust_remote_code": self.trust_remote_code}
            outline = outline_pretrained(self.name, self.gguf_file, "model.teacher.init_args.model", **options)
        else:
            outline = self._module
        self._model = LanguageModel(outline).eval().requires_grad_(False)
        self._width = self._model.vocab_size or logits_width(self._model, self._model)
        self._check_fit(surroundings, isolation=True)

    def _check_fit(self, surroundings: Surroundings, *, isolation: bool) -> None:
        """Compare tokenizer, vocabulary and context with what there is, and find the ids that are shared."""
        if self._module is None and surroundings.tokenizer_dir is not None:
            check_same_tokenizer(self.name, self.revision, surroundings.tokenizer_dir, self.gguf_file)
        self.shared_vocab_size = surroundings.shared_with(self.vocab_size)
        context = self.model.context_length
        if context and surroundings.block_size and surroundings.block_size > context:
            raise ValueError(
                f"A block must fit into the teacher's context, got {surroundings.block_size} positions for "
                f"{context}. Run `pd-lightning tokenize` with a block_size of at most {context}."
            )
        if surroundings.document_attention == "isolated" and isolation:
            self.model.check_isolation("teacher")

    @torch.no_grad()
    def __call__(self, batch: Batch) -> HiddenTargets:
        """Run the model over a batch.

        Args:
            batch: `input_ids`, int64 `[B, T]`, and `position_ids`, int64 `[B, T]`, where documents are isolated.

        Returns:
            Dense targets of N = B·T positions, from which log-probabilities are made as they are needed.
        """
        parameter = next(self.model.parameters())
        with self._timed(parameter):
            device = parameter.device
            inputs = {name: batch[name].to(device) for name in ("input_ids", "position_ids") if name in batch}
            hidden = self.model.hidden(**inputs).flatten(0, 1)
        linear = self.model.head.linear if self._is_here else None
        if linear is not None:
            linear = _TimedHead(linear.weight, linear.bias, linear.scale, linear.cap, self._timed)
        return HiddenTargets(hidden, Head(self._head, vocab_size=self.vocab_size, linear=linear))

    @torch.no_grad()
    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        with self._timed(hidden):
            return self.model.head(hidden).to(self._student_device)

    @contextmanager
    def _timed(self, tensor: torch.Tensor) -> Iterator[None]:
        started = time.perf_counter()
        # The Trainer's autocast is for the student; the teacher computes in its own data type.
        with torch.autocast(tensor.device.type, enabled=False):
            yield
        self.forward_seconds += time.perf_counter() - started

    def describe(self) -> dict[str, object]:
        """Name, revision, width of the logits, data type, quantization, and a digest of the weights in use."""
        parameter = next(self.model.parameters())
        if self._digest is None:  # frozen: every checkpoint of a run can have the same
            self._digest = _digest(self.model)
        chosen = {"gguf_file": self.gguf_file, "quantization": self.quantization}
        return {
            "kind": type(self).__name__,
            "name": self.name,
            "revision": self.revision,
            **{name: value for name, value in chosen.items() if value is not None},
            "vocab_size": self.vocab_size,
            "num_parameters": sum(p.numel() for p in self.model.parameters()),
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "weights_digest": self._digest,
        }

    def _load(self) -> nn.Module:
        if self._module is not None:
            return self._module if self.dtype == "auto" else self._module.to(getattr(torch, self.dtype))
        return load_pretrained(
            self.name,
            self.gguf_file,
            self.dtype,
            "model.teacher.init_args.model",
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
        )


def _known_device(name: str | None) -> str | None:
    try:
        torch.device(name or "cpu")
    except RuntimeError as error:
        raise ValueError(
            f"device must be one of torch, got {name!r}. Set model.teacher.init_args.device to cuda:1, say, or leave "
            "it out for the student's."
        ) from error
    return name


def _check_device(name: str | None) -> None:
    device = torch.device(name or "cpu")
    there = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= there:
        raise ValueError(
            f"The teacher's device must be there, got {name} on a machine with {there} GPUs. Set "
            "model.teacher.init_args.device, or leave it out for the student's."
        )


@dataclass(frozen=True)
class _TimedHead(LinearHead):
    """A head whose time counts for the teacher, and whose data type is the teacher's own."""

    timed: Callable[[torch.Tensor], AbstractContextManager[None]] = lambda hidden: nullcontext()

    def write(self, hidden: torch.Tensor, out: torch.Tensor, slope: torch.Tensor | None = None) -> torch.Tensor:
        """Compute logits, see LinearHead."""
        with self.timed(hidden):
            return super().write(hidden, out, slope)


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        for part in _plain(tensor.detach()):
            digest.update(f"{name} {part.dtype} {tuple(part.shape)}".encode())
            digest.update(part.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def _plain(tensor: Any) -> Iterator[torch.Tensor]:
    """The tensors that a quantized one is made of; any other is its own."""
    if type(tensor) is torch.Tensor or not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _plain(getattr(tensor, name))
