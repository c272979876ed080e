"""Corpora and teachers in, one multilingual tagger out: what `structkd distill` does, for `accelerate launch`."""

import sys

from hf_structkd.cli import main

if __name__ == "__main__":
    sys.exit(main(["distill", *sys.argv[1:]]))
