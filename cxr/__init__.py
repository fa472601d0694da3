"""The nouns of the pipeline: release, images, records, networks, evaluation. The verbs are the scripts above."""

import os

# TensorFlow greets every process with a dozen lines about its build; its errors reach Python as exceptions anyway.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
