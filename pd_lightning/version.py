"""The version, alone in its file so that neither setuptools nor `--version` imports torch."""

__version__ = "0.1.0"
