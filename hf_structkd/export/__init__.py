"""Export of models to run without PyTorch."""
