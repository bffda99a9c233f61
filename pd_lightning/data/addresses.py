"""File systems of addresses in object storage."""

from __future__ import annotations

from typing import Any

from pd_lightning.redaction import redact_text


def file_system(address: str, key: str) -> tuple[Any, str]:
    """Open the file system of an address.

    Args:
        address: Anything that fsspec knows: `s3://bucket/store`, `gs://bucket/store`, `file:///folder/store`.
        key: The setting that names it, for messages.

    Returns:
        The file system, and the path in it.

    Raises:
        ValueError: There is no such kind of storage, or a package that it needs is missing.
    """
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"{key} must be a folder or an address that fsspec can open, got {redact_text(address)} "
            f"({str(error).rstrip('.')}). Correct {key}, or install what its kind of storage needs, s3fs for s3:// say."
        ) from error
    return files, path
