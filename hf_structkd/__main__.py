"""`python -m hf_structkd` and `accelerate launch -m hf_structkd` are the command `structkd`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
