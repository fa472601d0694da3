"""search_hyperparams.py as a user runs it, with trials by stub_trainer.py, which it checks more often."""

import os
import pathlib
import sys

SUPPORT = pathlib.Path(__file__).resolve().parent
ROOT = SUPPORT.parents[1]
sys.path.insert(0, str(ROOT))  # it contains only the folder of this script
os.environ["PYTHONPATH"] = str(ROOT)  # for the trainer
TRAINER = (sys.executable, str(SUPPORT / "stub_trainer.py"))

if __name__ == "__main__":
    import search_hyperparams
    from searching import search

    search.POLL = 0.05
    search_hyperparams.main(trainer=TRAINER)
