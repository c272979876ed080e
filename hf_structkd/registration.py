"""What transformers is told of this package: its models by their type, and its pipeline by its task.

Being told means importing transformers and torch, which takes seconds. So it waits until transformers is imported,
by whomever; where that has happened already, it is done at once.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from typing import Any

LIBRARY = "transformers"


def register_with_transformers() -> None:
    """Register models and pipeline now if transformers is imported, else as soon as it is."""
    if LIBRARY in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _AfterImport())


def register() -> None:
    """Register models and pipeline. To do it twice does no harm."""
    from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification
    from transformers.pipelines import PIPELINE_REGISTRY

    from .modeling.pipeline import TASK, CRFTokenClassificationPipeline
    from .modeling.taggers import CRF_CLASSES

    for model in CRF_CLASSES:
        AutoConfig.register(model.config_class.model_type, model.config_class, exist_ok=True)
        AutoModel.register(model.config_class, model.encoder_class, exist_ok=True)
        AutoModelForTokenClassification.register(model.config_class, model, exist_ok=True)
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        # Under a name of its own: registering "token-classification" anew would take the stock pipeline from all.
        PIPELINE_REGISTRY.register_pipeline(
            TASK, CRFTokenClassificationPipeline, AutoModelForTokenClassification, type="text"
        )


class _AfterImport(importlib.abc.MetaPathFinder):
    """Lets the other finders find transformers, and registers when it has been imported.

    Libraries also ask whether transformers could be found, without importing it; that changes nothing here.
    """

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != LIBRARY or self not in sys.meta_path:
            return None
        place = sys.meta_path.index(self)
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            sys.meta_path.insert(place, self)
        if spec is None or spec.loader is None:
            return spec
        run_module = spec.loader.exec_module

        def run_and_register(module: Any) -> None:
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            run_module(module)
            register()

        spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec
