"""One process of two: trains the cases of a file, and says what each came to, beside it."""

import json
import sys
from pathlib import Path

import torch
from accelerate import PartialState

from hf_structkd.processes import prepare_processes
from tests.fuzz.training_cases import World, draw_case, train_on, train_whole

if __name__ == "__main__":
    torch.set_num_threads(1)
    prepare_processes()
    place, worlds = Path(sys.argv[1]), {}
    for seed in json.loads((place / "seeds.json").read_text()):
        case = draw_case(seed)
        world = worlds.setdefault(case["scheme"], World(case["scheme"]))
        folder = place / str(seed)
        try:
            reports = [train_whole(world, case, folder), train_on(world, case, folder)]
        except Exception as error:
            raise RuntimeError(f"case {case}") from error
        state = PartialState()
        assert state.num_processes == 2
        state.wait_for_everyone()
        (place / f"report-{seed}-{state.process_index}.json").write_text(json.dumps(reports))
