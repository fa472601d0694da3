"""The parts of search_hyperparams.py: an Optuna study in a journal file, and one train.py process per trial."""
