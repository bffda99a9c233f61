"""A report as one HTML file that needs nothing else: no script, no font, no picture from outside."""

from pd_lightning.report.page import Code, Section, Table, cell_text, write_report

__all__ = ["Code", "Section", "Table", "cell_text", "write_report"]
