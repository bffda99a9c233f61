"""Teachers: where targets come from, one class a file."""

from pd_lightning.teachers.base import Surroundings, Teacher
from pd_lightning.teachers.checkpoint import CheckpointTeacher
from pd_lightning.teachers.ensemble import TeacherEnsemble
from pd_lightning.teachers.frozen import FrozenTeacher
from pd_lightning.teachers.none import NoTeacher
from pd_lightning.teachers.offline import OfflineTeacher

__all__ = [
    "CheckpointTeacher",
    "FrozenTeacher",
    "NoTeacher",
    "OfflineTeacher",
    "Surroundings",
    "Teacher",
    "TeacherEnsemble",
]
