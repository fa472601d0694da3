"""search_hyperparams.py as a user runs it, but its trials are those of stub_trainer.py."""

import os
import pathlib
import sys

TESTS = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS.parent))  # a script has its own folder there
os.environ["PYTHONPATH"] = str(TESTS.parent)  # and so does the trainer
TRAINER = (sys.executable, str(TESTS / "stub_trainer.py"))

if __name__ == "__main__":
    import search_hyperparams

    search_hyperparams.main(trainer=TRAINER)
