"""Training of one experiment, the parts of train.py."""
