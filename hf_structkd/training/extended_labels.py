"""A tagger that learns further entity types: the same model with rows for new labels."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..modeling.configuration import label_names
from ..modeling.tag_scheme import TagScheme, split_tag

OUTSIDE = "O"
NEW_SHARE = 0.1  # what all new labels of a word weigh together at first, relative to O
PREFIXES = {"BIO": "BI", "BIOES": "BIES", "plain": ""}
OUTPUT_LAYERS = ("classifier", "score")  # module names of the last layer in transformers' token classifiers
CRF_SCORES = ("crf.transitions", "crf.start_transitions", "crf.end_transitions")


def extended_label_names(labels: Sequence[str], types: Sequence[str], scheme: str | None = None) -> list[str]:
    """The labels of a tagger and, behind them, those of new entity types.

    Args:
        labels: The tagger's, in the order of their ids.
        types: The new entity types; for plain tags the new tags.
        scheme: The tagger's tag scheme; by default inferred from its labels.

    Returns:
        The labels in order: old ids stay the same.

    Raises:
        ValueError: If there is no new type, one exists, is named twice, or has a name that labels cannot have.
    """
    if isinstance(types, str) or not types:
        raise ValueError(f"name the new types in a list, for instance ['ORG'], not {types!r}")
    known = TagScheme(labels, scheme)
    for place, name in enumerate(types):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{name!r} is no name of a type")
        if name == OUTSIDE:
            raise ValueError(
                f"a type cannot be named {OUTSIDE!r}: this is the label of words outside of entities, and of the "
                "group of labels that a teacher without the new types cannot tell apart"
            )
        if name in types[:place]:
            raise ValueError(f"the new type {name!r} is named twice")
        if name in known.entity_types:
            raise ValueError(f"the tagger knows the type {name!r} already; it has {', '.join(known.entity_types)}")
        if known.name != "plain" and split_tag(name)[0]:
            kind = split_tag(name)[1]
            raise ValueError(f"{name!r} is a {known.name} label: name the type" + (f", {kind!r}" if kind else ""))
    if known.name != "plain" and "" in known.entity_types:
        raise ValueError(
            f"the labels {list(labels)} have one type without a name, so a second one cannot be told apart: rename "
            "the labels of the model's configuration first, B to B-TERM for instance"
        )
    prefixes = PREFIXES[known.name]
    return [*labels, *(f"{prefix}-{name}" for name in types for prefix in prefixes), *(() if prefixes else types)]


def extend_labels(model: Any, types: Sequence[str]) -> Any:
    """Copy a tagger and add labels for new entity types; everything else stays as it is.

    Of the old labels all rows and all scores of transitions are kept exactly. A new label starts as O (without an O,
    as the mean of all labels), lowered so that all new labels of a word together weigh a tenth of it, and with O's
    scores of transitions. So the copy decodes the old tags at first, and every new label has a probability from which
    it can be learnt.

    Args:
        model: A tagger with a CRF, or one of transformers' `...ForTokenClassification`; not changed.
        types: The new entity types, for instance `["ORG", "MISC"]`: each gets the labels of the tagger's scheme
            (`B-ORG`, `I-ORG`, in BIOES also `E-ORG` and `S-ORG`). For plain tags the new tags.

    Returns:
        The larger model in eval mode, with the original's dtype and device. Its new labels stand behind the old ones.

    Raises:
        ValueError: If a type exists or has a name that labels cannot have, or the model has an adapter or its last
            layer in no known place.
    """
    if hasattr(model, "get_base_model"):
        raise ValueError("labels are added to a model without an adapter: call merge_and_unload() first")
    old_labels = label_names(model.config)
    labels = extended_label_names(old_labels, types, getattr(model.config, "tag_scheme", None))
    layer = _output_layer(model, len(old_labels))
    config = copy.deepcopy(model.config)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}

    source = model.state_dict()
    weights = {f"{layer}.weight", f"{layer}.bias"} & source.keys()
    values = {name: value for name, value in source.items() if name not in {*weights, *CRF_SCORES}}
    outside = old_labels.index(OUTSIDE) if OUTSIDE in old_labels else None
    count = len(labels) - len(old_labels)
    if f"{layer}.bias" not in weights:
        raise ValueError(f"the last layer of {type(model).__name__} has no bias, by which new labels start below O")
    for name in weights:
        values[name] = _extended(source[name], count, outside)
    values[f"{layer}.bias"][-count:] += math.log(NEW_SHARE / count)
    for name in CRF_SCORES:
        if name in source:
            scores = _extended(source[name], count, outside)
            values[name] = _extended(scores.T, count, outside).T.contiguous() if scores.ndim == 2 else scores

    larger = type(model)(config).to(device=model.device, dtype=model.dtype)
    larger.load_state_dict(values)
    return larger.eval()


def _output_layer(model: Any, num_labels: int) -> str:
    for name in OUTPUT_LAYERS:
        layer = getattr(model, name, None)
        if isinstance(layer, nn.Linear) and layer.out_features == num_labels:
            return name
    raise ValueError(
        f"{type(model).__name__} has no linear layer of its {num_labels} labels in a known place "
        f"({', '.join(OUTPUT_LAYERS)}): it is no tagger, or one of a family that cannot be extended"
    )


def _extended(rows: Tensor, count: int, outside: int | None) -> Tensor:
    """The same rows and `count` more, each as that of O, or as the mean of all."""
    start = rows.float().mean(dim=0).to(rows.dtype) if outside is None else rows[outside]
    return torch.cat([rows, start.expand(count, *rows.shape[1:])])
