"""What search_hyperparams.py is made of: Optuna's study in a journal file, and one train.py process per trial."""
