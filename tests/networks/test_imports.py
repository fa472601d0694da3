"""The import of TensorFlow: what it leaves out, what it shows."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMPORTED = """
import gc, sys
from cxr.networks.imports import UNUSED_BY_KERAS, import_tensorflow
import cv2
import_tensorflow()
print([name for name in UNUSED_BY_KERAS if name in sys.modules])
import pandas, sklearn.linear_model, matplotlib.pyplot, tensorflow, keras
layer, images = keras.layers.Dense(1), tensorflow.ones([2, 3])
print(gc.isenabled(), pandas.DataFrame([{"a": 1}]).a.sum(), layer(images).shape)
frozen = gc.get_freeze_count()
import_tensorflow()
print(frozen > 100_000, gc.get_freeze_count() == frozen)
"""
BROKEN = """
import os
os.write(2, b"libfoo.so.1 is missing\\n")
raise ImportError("not to be loaded")
"""


def run(code: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, **options
    )


def test_libraries_that_keras_only_offers_to_use_are_left_out_and_can_be_imported_later():
    done = run(IMPORTED)
    assert done.stdout == "['cv2']\nTrue 1 (2, 1)\nTrue True\n"
    assert done.stderr == ""


def test_what_a_library_says_is_shown_when_it_cannot_be_loaded(tmp_path):
    (tmp_path / "keras.py").write_text(BROKEN)
    done = run(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
        "from cxr.networks import imports; imports.import_tensorflow()"
    )
    first, *_, last = done.stderr.splitlines()
    assert (first, last) == ("libfoo.so.1 is missing", "ImportError: not to be loaded")


def test_standard_error_may_be_closed(tmp_path):
    (tmp_path / "keras.py").write_text("")
    (tmp_path / "tensorflow.py").write_text("")
    code = f"import os, sys; sys.path.insert(0, {str(tmp_path)!r}); from cxr.networks import imports; "
    command = f'exec "{sys.executable}" -c "{code}imports.import_tensorflow(); print(sys.stderr)" 2>&-'
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.stdout == "None\n"
