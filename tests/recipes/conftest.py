"""The tiny students of every family, which recipes start from too."""

from tests.modeling.conftest import family, tokenizers_by_family  # noqa: F401 (fixtures)
