"""A model for places without PyTorch."""
