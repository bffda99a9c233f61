"""The command line ``pd-lightning``: one table of commands, and what is common to all of them."""

from pd_lightning.cli.command_line import Command, main

__all__ = ["Command", "main"]
