"""Serve a web page, on this computer only, that predicts findings of chest radiographs with a trained experiment.

    python -m tools.serve --model_dir experiments/simple_cnn

Open http://127.0.0.1:7860 and drop an X-ray (PNG, JPEG, WebP, DICOM) on the page. It shows 14 calibrated probabilities
with their operating points; click a finding for its heat map. Other programs get the same numbers as JSON:
`curl --data-binary @xray.png http://127.0.0.1:7860/api/predict`. Images are not stored, and the page needs no network
connection. Needs `pip install -r requirements/serve.txt`. Not for clinical use.
"""

import argparse
import contextlib
import importlib.util
import pathlib

from cxr import experiment
from cxr.errors import one_line_errors
from cxr.evaluation import operating_points, out_of_distribution
from inference.predictor import Predictor
from tools.serving.app import Served, listen, run


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_dir", type=pathlib.Path, required=True, help="a trained experiment")
    add("--port", type=int, default=7860, help="port of the page; 0 takes any free port (default: %(default)s)")
    add("--checkpoint", choices=experiment.CHECKPOINTS, default="best", help="default: %(default)s")
    args = parser.parse_args(argv)
    if not 0 <= args.port <= 65535:
        parser.error(f"--port {args.port}: expected 0 to 65535")
    return args


def require_fastapi() -> None:
    """Raise ImportError unless FastAPI and uvicorn are installed."""
    if not all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn")):
        raise ImportError("the page needs FastAPI and uvicorn. Run: pip install -r requirements/serve.txt")


def main(argv: list[str] | None = None) -> None:
    """Serve one experiment until interrupted."""
    args = parse_args(argv)
    with one_line_errors(), contextlib.suppress(KeyboardInterrupt):
        dataset = experiment.dataset_of(args.model_dir)  # an untrained experiment is an error at once
        require_fastapi()
        with listen(args.port) as listener:  # before the model, which takes seconds to load
            predictor = Predictor(args.model_dir, args.checkpoint)
            advice = [part.advice(args.model_dir, args.checkpoint) for part in (operating_points, out_of_distribution)]
            run(Served(predictor, args.model_dir.name, args.checkpoint, dataset, *advice), listener)


if __name__ == "__main__":
    main()
