"""How a run went, epoch by epoch: history.csv, TensorBoard, and when to stop."""

import math
import pathlib

from cxr import storage


class History:
    """Rows of {"epoch", "loss", "learning_rate", "seconds", "images_per_second", "val_loss", "val_mean_auroc",
    "val_auroc_<Finding>"}; None where undefined."""

    def __init__(self, model_dir: pathlib.Path) -> None:
        self.model_dir = model_dir
        self.rows: list[dict] = []
        self.writer = None  # of TensorBoard's file, made with the first row

    @property
    def best(self) -> float:
        """Best val mean AUROC so far; nan before the first defined one."""
        return max((value for value in self._values() if value is not None), default=math.nan)

    def epochs_since_best(self) -> int:
        """Epochs without a better val mean AUROC; 0 where it is undefined, so that best follows last."""
        values = self._values()
        if not values or values[-1] is None:
            return 0
        return len(values) - 1 - values.index(max(value for value in values if value is not None))

    def plateaus(self, patience: int) -> int:
        """How often val mean AUROC has not got better for `patience` epochs, counted anew each time."""
        best, waited, found = -math.inf, 0, 0
        for value in self._values():
            better = value is None or value > best
            best, waited = (best if value is None else max(best, value)), 0 if better else waited + 1
            if waited == patience:
                found, waited = found + 1, 0
        return found

    def _values(self) -> list[float | None]:
        return [row["val_mean_auroc"] for row in self.rows]

    def write(self) -> None:
        """Write history.csv, whole."""
        import pandas as pd

        storage.write_text(self.model_dir / "history.csv", pd.DataFrame(self.rows).to_csv(index=False))

    def write_scalars(self) -> None:
        """Add the last row to TensorBoard."""
        import tensorflow as tf

        row = self.rows[-1]
        if self.writer is None:  # one file for the run: several of one second would be read in any order
            self.writer = tf.summary.create_file_writer(str(self.model_dir / "tensorboard"))
        with self.writer.as_default(step=row["epoch"]):
            for key, value in row.items():
                if key != "epoch" and value is not None:
                    tf.summary.scalar(key.replace("val_auroc_", "val_auroc/"), value)
        self.writer.flush()

    def describe(self, num_epochs: int) -> str:
        """The last row as a line of the log."""
        row = self.rows[-1]
        value = row["val_mean_auroc"]
        auroc = "undefined" if value is None else f"{value:.4f} (best {self.best:.4f})"
        return (
            f"epoch {row['epoch']:3d}/{num_epochs}   loss {row['loss']:.4f}   val AUROC {auroc}   "
            f"{row['images_per_second']:.0f} img/s   {row['seconds']:.0f} s"
        )
