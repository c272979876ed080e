"""One tagger trained on gold tags, to be a teacher: what `structkd teacher` does, for `accelerate launch`."""

import sys

from hf_structkd.cli import main

if __name__ == "__main__":
    sys.exit(main(["teacher", *sys.argv[1:]]))
