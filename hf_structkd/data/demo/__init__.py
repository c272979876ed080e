"""Templates and name lists of the demo corpus, one file per language."""
