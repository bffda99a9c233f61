"""What decoding does when an item is not as it was written."""


def require(condition: bool, problem: str) -> None:
    """Refuse a damaged item.

    Raises:
        ValueError: With `problem`, to which the reader adds the file and the remedy.
    """
    if not condition:
        raise ValueError(problem)
