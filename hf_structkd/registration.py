"""Registers the package with transformers: its models by their type, its pipeline by its task.

Registration imports transformers and torch, which takes seconds. It therefore waits until something else imports
transformers, and happens at once where transformers is imported already. A module of `modeling/` may be the one that
imports transformers; registration needs this module and waits until it is complete too.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from typing import Any

LIBRARY = "transformers"
NEEDED = f"{__package__}.modeling."


def register_with_transformers() -> None:
    """Register models and pipeline now if transformers is imported, otherwise as soon as it is."""
    if LIBRARY in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _AfterImport())


def register() -> None:
    """Register models and pipeline. A second call changes nothing."""
    from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification
    from transformers.pipelines import PIPELINE_REGISTRY

    from .modeling.pipeline import TASK, CRFTokenClassificationPipeline
    from .modeling.taggers import CRF_CLASSES

    for model in CRF_CLASSES:
        AutoConfig.register(model.config_class.model_type, model.config_class, exist_ok=True)
        AutoModel.register(model.config_class, model.encoder_class, exist_ok=True)
        AutoModelForTokenClassification.register(model.config_class, model, exist_ok=True)
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        # A task name of its own: registering "token-classification" again would replace the stock pipeline.
        PIPELINE_REGISTRY.register_pipeline(
            TASK, CRFTokenClassificationPipeline, AutoModelForTokenClassification, type="text"
        )


class _AfterImport(importlib.abc.MetaPathFinder):
    """An import hook: the other finders find a module, and its import is followed by the registration.

    It follows the import of transformers, or that of the outermost module of `modeling/` that is then unfinished. A
    library may ask for the specification of transformers without importing it; the hook then stays in place.
    """

    def __init__(self) -> None:
        self.unfinished = 0  # modules of `modeling/` whose import has begun and not ended
        self.library_imported = False

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if self not in sys.meta_path or not (fullname == LIBRARY or fullname.startswith(NEEDED)):
            return None
        position = sys.meta_path.index(self)
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            sys.meta_path.insert(position, self)
        if spec is None or spec.loader is None:
            return spec
        run_module, needed = spec.loader.exec_module, fullname != LIBRARY

        def run_and_register(module: Any) -> None:
            self.unfinished += needed
            try:
                run_module(module)
            finally:
                self.unfinished -= needed
            self.library_imported |= not needed
            if self.library_imported and not self.unfinished and self in sys.meta_path:
                sys.meta_path.remove(self)
                register()

        spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec
