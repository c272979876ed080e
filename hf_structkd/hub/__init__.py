"""Model cards: what a student says of itself on the Hub."""

from .model_card import StudentCardData, TeacherCard, build_model_card, write_model_card

__all__ = ["StudentCardData", "TeacherCard", "build_model_card", "write_model_card"]
