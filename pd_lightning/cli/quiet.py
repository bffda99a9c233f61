"""What Lightning says at each start and nobody can act on: advertisements, and warnings of what is meant here."""

import logging
import warnings

# Loggers of rank_zero_info, and what torchao makes torch say when transformers imports it; there is no other switch for
# single messages.
LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero", "torch.utils._pytree")
MESSAGES = ("💡 Tip:", "TPU available: False", "<enum 'KernelPreference'>", "<enum 'ScaleCalculationMode'>")
# (module, start of the message)
WARNINGS = (
    # Lightning with torch from 2.14 on.
    (r"lightning\.pytorch\.utilities\._pytree", r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
    # Reading blocks takes microseconds: data.num_workers 0 is a good default.
    (r"lightning\.pytorch\.", r"The '\w+' does not have many workers"),
    # record keeps nothing in memory, and a finished recording has nothing left to read.
    (r"lightning\.pytorch\.loops\.prediction_loop", r"predict returned None"),
    (r"lightning\.pytorch\.utilities\.data", r"Total length of `\w+` across ranks is zero"),
    # A run that goes on has checkpoints; a new one in a used folder is refused.
    (r"lightning\.pytorch\.callbacks\.model_checkpoint", r"Checkpoint directory .* exists and is not empty"),
    (r"lightning\.pytorch\.utilities\.model_summary", r"Precision \S+ is not supported by the model summary"),
)


def quieten() -> None:
    """Leave out those messages and warnings, in this process."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_is_wanted)
    for module, message in WARNINGS:
        warnings.filterwarnings("ignore", message=message, module=module)


def _is_wanted(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(MESSAGES)
