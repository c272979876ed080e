"""What goes to the Hub with a student: its card, results and pictures; and how it gets there."""

from .card_data import StudentCardData, TeacherCard, card_data
from .describe import describe_student, redescribe
from .model_card import build_model_card, write_model_card
from .public import public_name, publishable
from .push import PushError, files_to_push, prepare_repository, push_folder

__all__ = [
    "PushError",
    "StudentCardData",
    "TeacherCard",
    "build_model_card",
    "card_data",
    "describe_student",
    "files_to_push",
    "prepare_repository",
    "public_name",
    "publishable",
    "push_folder",
    "redescribe",
    "write_model_card",
]
