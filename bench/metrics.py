"""How long the bootstrap intervals of one evaluation take: 1,000 resamples of the patients of the official test split.

    python -m bench.metrics

Takes random labels and scores of as many images and patients as that split has, for all 14 findings.
"""

import argparse
import statistics
import time

import numpy as np

from cxr.evaluation import metrics
from cxr.findings import FINDINGS

IMAGES, PATIENTS = 25_596, 2_797  # of test_list.txt


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts; default: %(default)s")
    args = parser.parse_args()
    generator = np.random.default_rng(0)
    labels = (generator.random((IMAGES, len(FINDINGS))) < 0.1).astype(int)
    scores = generator.random(labels.shape)
    patient_ids = np.concatenate([np.arange(PATIENTS), generator.integers(0, PATIENTS, IMAGES - PATIENTS)])
    seconds = []
    for _ in range(args.rounds):
        start = time.perf_counter()
        resamples, findings = metrics.bootstrap_aurocs(labels, scores, patient_ids).shape
        seconds.append(time.perf_counter() - start)
    what = f"{resamples:,} resamples of {PATIENTS:,} patients, {IMAGES:,} images x {findings} findings"
    print(f"{what}: {statistics.median(seconds):.2f} s, median of {args.rounds}")


if __name__ == "__main__":
    main()
