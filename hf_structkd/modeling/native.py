"""Placeholder: compiled loops."""


def native(name, tensor):
    return None
