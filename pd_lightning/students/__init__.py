"""Students: what is trained, one class a file."""

from pd_lightning.students.base import Student
from pd_lightning.students.hugging_face import HFStudent
from pd_lightning.students.pruned import PrunedStudent

__all__ = ["HFStudent", "PrunedStudent", "Student"]
