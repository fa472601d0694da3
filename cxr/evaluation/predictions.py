"""The predictions CSV: image_id, patient_id, label_<Finding> x14, prob_<Finding> x14, and METADATA_COLUMNS."""

import io
import pathlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cxr.evaluation import metrics
from cxr.findings import FINDINGS, require_same_findings
from cxr.patient import SEXES, VIEW_POSITIONS

if TYPE_CHECKING:
    import pandas as pd

METADATA_COLUMNS = ("age", "sex", "view_position", "group")  # optional in a CSV; without them all are unknown
LABELS = [f"label_{finding}" for finding in FINDINGS]
PROBABILITIES = [f"prob_{finding}" for finding in FINDINGS]
SHOWN = 3  # images that an error names at most


class Metadata(NamedTuple):
    """Labels of some images and what is known of their patients; one row per image."""

    labels: np.ndarray  # int64 [n, 14]
    ages: np.ndarray  # float64 [n] years, nan unknown
    sexes: np.ndarray  # str [n] F, M, "" unknown
    view_positions: np.ndarray  # str [n] PA, AP, "" unknown

    @classmethod
    def from_codes(
        cls, labels: np.ndarray, ages: np.ndarray, *, sexes: np.ndarray, view_positions: np.ndarray
    ) -> "Metadata":
        """From sexes and view positions as records have them: codes of `cxr.patient`, -1 unknown."""
        sex_names = np.array([*SEXES, ""])  # -1 is the last
        position_names = np.array([*VIEW_POSITIONS, ""])
        return cls(labels, ages.astype(np.float64), sex_names[sexes], position_names[view_positions])


class Predictions(NamedTuple):
    """A model's probabilities for some images, beside their labels and metadata; one row per image."""

    image_ids: np.ndarray  # str [n]
    patient_ids: np.ndarray  # int64 [n]
    labels: np.ndarray  # int64 [n, 14]
    probabilities: np.ndarray  # float64 [n, 14]
    ages: np.ndarray  # float64 [n] years, nan unknown
    sexes: np.ndarray  # str [n] F, M, "" unknown
    view_positions: np.ndarray  # str [n] PA, AP, "" unknown
    groups: np.ndarray  # str [n] where images came from, "" unknown

    def rows(self, chosen: np.ndarray) -> "Predictions":
        """Some of the images: a mask [n], or row numbers in the wanted order."""
        return Predictions(*(column[chosen] for column in self))

    @property
    def metadata(self) -> Metadata:
        """Labels, ages, sexes and view positions."""
        return Metadata(self.labels, self.ages, self.sexes, self.view_positions)


def from_logits(
    logits: np.ndarray, metadata: Metadata, *, image_ids: np.ndarray, patient_ids: np.ndarray, groups: np.ndarray
) -> Predictions:
    """Logits [n, 14] of a model as probabilities.

    Raises:
        ValueError: there are more or fewer images than logits, or logits are NaN or infinite.
    """
    if len(image_ids) != len(logits):
        raise ValueError(
            f"{len(logits):,} predictions for {len(image_ids):,} images: the dataset changed in the meantime"
        )
    if not np.isfinite(logits).all():
        raise ValueError("the model's outputs are NaN or infinite: its weights are damaged; train it again: --restart")
    probabilities = metrics.sigmoid(logits.astype(np.float64))
    return Predictions(image_ids, patient_ids, probabilities=probabilities, groups=groups, **metadata._asdict())


def to_csv(predictions: Predictions) -> str:
    """The CSV as text; `read_predictions` gives it back, probabilities to nine digits."""
    import pandas as pd

    columns = {"image_id": predictions.image_ids, "patient_id": predictions.patient_ids}
    columns |= dict(zip(LABELS, predictions.labels.T, strict=True))
    columns |= dict(zip(PROBABILITIES, predictions.probabilities.T, strict=True))
    columns |= {"age": predictions.ages, "sex": predictions.sexes, "view_position": predictions.view_positions}
    columns |= {"group": predictions.groups}
    return pd.DataFrame(columns).to_csv(index=False, float_format="%.9g")


def read_predictions(path: pathlib.Path) -> Predictions:
    """Read a predictions CSV, rows in its order.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not a predictions CSV, has other findings or another order of them, an image twice, or an
            impossible cell; file, image and column are named.
    """
    table = _read_table(path)
    missing = [name for name in ("image_id", "patient_id") if name not in table]
    if missing:
        raise ValueError(
            f"{path} has no column {missing[0]}; expected image_id, patient_id, label_<Finding> x14 and "
            "prob_<Finding> x14, as evaluate.py writes them"
        )
    for prefix in ("label_", "prob_"):
        found = [name.removeprefix(prefix) for name in table if name.startswith(prefix)]
        require_same_findings(found, f"{path} ({prefix}<Finding>)")
    repeated = table["image_id"][table["image_id"].duplicated()]
    if len(repeated):
        raise ValueError(f"{path} has {_some(repeated.unique())} more than once; every image counts once")
    table = table.assign(**{name: table.get(name, "") for name in METADATA_COLUMNS})
    return Predictions(
        image_ids=table["image_id"].to_numpy(str),
        patient_ids=_numbers(table, ["patient_id"], path, whole=True)[:, 0].astype(np.int64),
        labels=_numbers(table, LABELS, path, whole=True, high=1).astype(np.int64),
        probabilities=_numbers(table, PROBABILITIES, path, high=1),
        ages=_ages(table, path),
        sexes=_one_of(table, "sex", ("F", "M", ""), path),
        view_positions=_one_of(table, "view_position", ("PA", "AP", ""), path),
        groups=table["group"].to_numpy(str),
    )


def _read_table(path: pathlib.Path) -> "pd.DataFrame":
    """All cells of a CSV as text."""
    import pandas as pd

    try:
        return pd.read_csv(io.BytesIO(path.read_bytes()), dtype=str, keep_default_na=False)
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise ValueError(f"{path} is not a predictions CSV: {error}") from error


def _numbers(
    table: "pd.DataFrame", columns: list[str], path: pathlib.Path, *, whole: bool = False, high: float = np.inf
) -> np.ndarray:
    """Columns as float64 [n, columns], each cell from 0 to `high`; with `whole` a whole number."""
    import pandas as pd

    numbers = np.stack([pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64) for name in columns], axis=1)
    valid = (numbers >= 0) & (numbers <= high) & np.isfinite(numbers)  # nan is not valid
    valid &= (numbers == np.floor(numbers)) | (not whole)
    if not valid.all():
        row, column = np.argwhere(~valid)[0]
        expected = {(True, 1): "0 or 1", (True, np.inf): "a whole number", (False, 1): "0 to 1"}[whole, high]
        more = f" ({(~valid).sum() - 1:,} more cells like it)" if (~valid).sum() > 1 else ""
        raise ValueError(
            f"{path}: {columns[column]} of image {table['image_id'].iloc[row]} is "
            f"{table[columns[column]].iloc[row]!r}; expected {expected}{more}"
        )
    return numbers


def _ages(table: "pd.DataFrame", path: pathlib.Path) -> np.ndarray:
    """Years, nan where the cell is empty."""
    import pandas as pd

    ages = pd.to_numeric(table["age"], errors="coerce").to_numpy(np.float64)
    wrong = np.flatnonzero((table["age"] != "").to_numpy() & ~((ages >= 0) & np.isfinite(ages)))
    if len(wrong):
        image_id, text = table[["image_id", "age"]].iloc[wrong[0]]
        raise ValueError(f"{path}: age of image {image_id} is {text!r}; expected years or an empty cell")
    return ages


def _one_of(table: "pd.DataFrame", column: str, options: tuple[str, ...], path: pathlib.Path) -> np.ndarray:
    wrong = np.flatnonzero(~table[column].isin(options))
    if len(wrong):
        image_id, value = table[["image_id", column]].iloc[wrong[0]]
        words = ", ".join(options[:-1])
        raise ValueError(f"{path}: {column} of image {image_id} is {value!r}; expected {words} or an empty cell")
    return table[column].to_numpy(str)


def in_order_of(predictions: Predictions, image_ids: np.ndarray, *, path: pathlib.Path, whose: str) -> Predictions:
    """The predictions of exactly these images, in their order.

    Args:
        path: of the predictions. whose: split and dataset of the images, "test of data/records". Both for the error.

    Raises:
        ValueError: images are missing, or there are others.
    """
    missing = np.setdiff1d(image_ids, predictions.image_ids)
    foreign = np.setdiff1d(predictions.image_ids, image_ids)
    if len(missing):
        raise ValueError(f"{path} lacks {_some(missing)} of {whose}")
    if len(foreign):
        raise ValueError(f"{path} has {_some(foreign)}, which {'is' if len(foreign) == 1 else 'are'} not in {whose}")
    place = {image_id: row for row, image_id in enumerate(predictions.image_ids)}
    return predictions.rows(np.array([place[image_id] for image_id in image_ids], int))


def _some(image_ids: np.ndarray) -> str:
    """The first few of some images, and how many more."""
    more = f" and {len(image_ids) - SHOWN:,} more" if len(image_ids) > SHOWN else ""
    return f"image{'s' if len(image_ids) > 1 else ''} {', '.join(map(str, image_ids[:SHOWN]))}{more}"
