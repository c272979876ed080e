"""Make a card from the results of one run, or of several with different seeds.

    python examples/make_card.py FOLDER                       # anew, from FOLDER/results.json and FOLDER/runs/
    python examples/make_card.py FOLDER RUN [RUN ...]         # from results.json of the runs, the described one first

FOLDER is a student's, before it is pushed, or one of model_cards/. What is written holds no path of this machine.
"""

import argparse
import sys

from hf_structkd.evaluation.results import read_results
from hf_structkd.hub.describe import describe_student, redescribe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="where the card, its pictures and its results go")
    parser.add_argument(
        "runs", nargs="*", help="results.json of a run, or the folder it is in; the described one first"
    )
    options = parser.parse_args()
    if options.runs:
        results, *others = [read_results(run) for run in options.runs]
        card = describe_student(options.folder, results, others)
    else:
        card = redescribe(options.folder)
    if card is None:
        sys.exit("error: the card could not be written; the log says why")
    print(card)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
