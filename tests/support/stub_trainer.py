"""A stub of train.py that takes no time: the same flags and files, without TensorFlow.

params.json controls it: val mean AUROC is `dropout` in every epoch, an epoch takes `warmup_epochs` seconds,
`batch_size` 13 is an error, with `loss` "focal" val AUROC is undefined, `mixup` is the number of leaked val patients,
with `horizontal_flip` SIGTERM is ignored, and `ema_decay` is the val AUROC within groups.
"""

import argparse
import json
import os
import pathlib
import signal
import sys
import time

from cxr import experiment, storage
from cxr.params import load_params


def write_history(model_dir: pathlib.Path, epochs: int, value: float | None, within: float | None) -> None:
    cells = ",".join("" if cell is None else str(cell) for cell in (value, within))
    rows = [f"{epoch},{cells}" for epoch in range(1, epochs + 1)]
    storage.write_text(model_dir / "history.csv", "\n".join(["epoch,val_mean_auroc,val_within_auroc", *rows]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_dir", type=pathlib.Path, required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    model_dir, params = args.model_dir, load_params(args.model_dir)
    if params.horizontal_flip:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not args.resume and experiment.products(model_dir):
        sys.exit(f"error: {model_dir} already holds a run")
    if params.batch_size == 13:
        sys.exit("a warning\nerror: batch_size 13 is unlucky")
    history = model_dir / "history.csv"
    before = len(history.read_text().splitlines()) - 1 if history.exists() else 0
    seen = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "TF_FORCE_GPU_ALLOW_GROWTH")}
    storage.write_json(model_dir / "seen.json", seen | {"cores": sorted(os.sched_getaffinity(0))})
    with (model_dir / "train.log").open("a") as log:
        log.write(f"{'resumed' if args.resume else 'started'} after epoch {before}\n")
    value = None if params.loss == "focal" else params.dropout
    for epoch in range(before + 1, params.num_epochs + 1):
        time.sleep(params.warmup_epochs)
        write_history(model_dir, epoch, value, params.ema_decay)
    metrics = {"mean_auroc": {"value": value}, "leak": {"patients": int(params.mixup)}}
    if params.ema_decay:
        metrics["within"] = {"group": {"mean_auroc": {"value": params.ema_decay}}}
    experiment.metrics_path(model_dir, "val", "best").write_text(json.dumps(metrics))


if __name__ == "__main__":
    main()
