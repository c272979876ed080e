"""A checkpoint scored on any corpora: what `structkd evaluate` does, for `accelerate launch`."""

import sys

from hf_structkd.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
