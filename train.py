"""Fit one experiment; everything it produces is written to its model_dir.

    python train.py --model_dir experiments/simple_cnn --data_dir data/records

Reads params.json there. Writes train.log, history.csv, tensorboard/, best and last weights, resume/ and the val metrics
and predictions. Watch it: tensorboard --logdir experiments
"""

import argparse
import logging
import pathlib
import sys

from etils import epath

from cxr import experiment, identity, storage
from cxr.engines.engine import NAMES, Engine
from cxr.errors import one_line_errors
from cxr.networks import devices
from cxr.params import Params, load_params
from cxr.records.dataset import Dataset, open_dataset
from training.phases import train_experiment
from training.start import TrainingJob, log_start, read_splits

log = logging.getLogger("train")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_dir", type=pathlib.Path, required=True, help="experiment folder with params.json")
    add("--data_dir", type=epath.Path, default="data/records", help="a built dataset; default: %(default)s")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="continue where the run in model_dir stopped")
    start.add_argument("--restore_from", type=pathlib.Path, metavar="DIR", help="begin with this experiment's weights")
    start.add_argument("--restart", action="store_true", help="move the run in model_dir aside and begin again")
    add("--deterministic", action="store_true", help="the same numbers in every run on a GPU too; slower there")
    add("--allow_leak", action="store_true", help="accept networks trained on patients of val; val results are marked")
    add("--engine", choices=NAMES, default="local", help="where features are extracted; default: %(default)s")
    add("--ray_address", metavar="A", help="a running Ray cluster: auto or HOST:PORT; default: start one here")
    args = parser.parse_args(argv)
    if args.ray_address and args.engine != "ray":
        parser.error("--ray_address goes with --engine ray")
    return args


def prepare_folder(model_dir: pathlib.Path, params: Params, images: Dataset, *, resume: bool, restart: bool) -> None:
    """Move an old run aside, or check that the folder has none, or that it can be resumed."""
    if restart:
        experiment.move_aside(model_dir)
    elif not resume:
        experiment.require_untrained(model_dir)
    elif identity.begun(model_dir) is not None:
        identity.require_params(model_dir, params)
        identity.require_dataset(model_dir, images.info["fingerprint"])


def open_log(model_dir: pathlib.Path) -> None:
    """Log to the terminal and append to train.log."""
    log.setLevel(logging.INFO)
    for handler in log.handlers:
        handler.close()
    log.handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(model_dir / "train.log")]


def main(argv: list[str] | None = None) -> None:
    """Train one experiment."""
    args = parse_args(argv)
    with one_line_errors():
        params = load_params(args.model_dir)  # also checks that the folder is an experiment
        with storage.exclusive(args.model_dir, "training in"):
            images = open_dataset(args.data_dir)
            prepare_folder(args.model_dir, params, images, resume=args.resume, restart=args.restart)
            open_log(args.model_dir)
            devices.prepare_devices(deterministic=args.deterministic)
            job = TrainingJob(
                params=params,
                images=images,
                indexes=read_splits(images),
                model_dir=args.model_dir,
                resume=args.resume,
                restore_from=args.restore_from,
                allow_leak=args.allow_leak,
                engine=Engine(args.engine, ray_address=args.ray_address),
            )
            log_start(job)
            train_experiment(job)
            log.info("next: python evaluate.py --model_dir %s --data_dir %s", args.model_dir, args.data_dir)


if __name__ == "__main__":
    main()
