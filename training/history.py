"""The results of each epoch: history.csv, TensorBoard scalars, early stopping and plateaus."""

import csv
import io
import math
import pathlib

from cxr import storage

POOLED = "val_mean_auroc"
WITHIN = "val_within_auroc"
NAMES = {POOLED: "val AUROC", WITHIN: "val AUROC within groups"}


class History:
    """One row per epoch: {"epoch", "loss", "learning_rate", "seconds", "images_per_second", "val_loss",
    "val_mean_auroc", "val_auroc_<Finding>"} and, if val has groups, "val_within_auroc"; None where undefined."""

    def __init__(self, model_dir: pathlib.Path, criterion: str = POOLED) -> None:
        """Start without rows.

        Args:
            criterion: the column by which epochs are compared, POOLED or WITHIN.
        """
        self.model_dir = model_dir
        self.criterion = criterion
        self.rows: list[dict] = []
        self.writer = None  # of the TensorBoard file, created with the first row

    @property
    def best(self) -> float:
        """The best value so far; NaN if none is defined yet."""
        return max((value for value in self._values() if value is not None), default=math.nan)

    def epochs_since_best(self) -> int:
        """Epochs since the best value; 0 while it is undefined, so that the best weights are the last ones."""
        values = self._values()
        if not values or values[-1] is None:
            return 0
        return len(values) - 1 - values.index(max(value for value in values if value is not None))

    def plateaus(self, patience: int) -> int:
        """How many times the value did not improve for `patience` epochs; the count restarts each time."""
        best = -math.inf
        waited = 0
        count = 0
        for value in self._values():
            if value is None or value > best:
                waited = 0
            else:
                waited += 1
            best = best if value is None else max(best, value)
            if waited == patience:
                count += 1
                waited = 0
        return count

    def _values(self) -> list[float | None]:
        return [row[self.criterion] for row in self.rows]

    def write(self) -> None:
        """Write all rows to history.csv."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        storage.write_text(self.model_dir / "history.csv", text.getvalue())

    def write_scalars(self) -> None:
        """Add the last row to TensorBoard."""
        import tensorflow as tf

        row = self.rows[-1]
        if self.writer is None:  # one file per run: TensorBoard reads several files of the same second in any order
            self.writer = tf.summary.create_file_writer(str(self.model_dir / "tensorboard"))
        with self.writer.as_default(step=row["epoch"]):
            for key, value in row.items():
                if key != "epoch" and value is not None:
                    tf.summary.scalar(key.replace("val_auroc_", "val_auroc/"), value)
        self.writer.flush()

    def describe(self, num_epochs: int) -> str:
        """The last row as a line of the log."""
        row = self.rows[-1]
        value = row[self.criterion]
        auroc = "undefined" if value is None else f"{value:.4f} (best {self.best:.4f})"
        pooled = "" if self.criterion == POOLED else f"{NAMES[POOLED]} {row[POOLED]:.4f}   "
        return (
            f"epoch {row['epoch']:3d}/{num_epochs}   loss {row['loss']:.4f}   "
            f"{pooled}{NAMES[self.criterion]} {auroc}   "
            f"{row['images_per_second']:.0f} img/s   {row['seconds']:.0f} s"
        )
