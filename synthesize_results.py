"""Put every metrics file below a folder into one table, the best experiment first.

    python synthesize_results.py --parent_dir experiments --split test

Prints it as Markdown and writes results_test_best.md and results_test_best.csv into the folder. Scores on other images,
another split or fewer findings than most are not comparable, and marked.
"""

import argparse
import pathlib
import sys

from cxr import experiment, storage
from cxr.errors import one_line_errors
from cxr.evaluation import synthesis, synthesis_tables


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--parent_dir", type=pathlib.Path, default="experiments", help="default: %(default)s")
    add("--split", choices=synthesis.SPLITS, default="test", help="sort the rows by its score; default: %(default)s")
    add("--checkpoint", choices=experiment.CHECKPOINTS, default="best", help="default: %(default)s")
    return parser.parse_args(argv)


def warn(text: str) -> None:
    """Print a warning to stderr."""
    print(f"warning: {text}", file=sys.stderr)


def warn_of_missing_and_not_comparable(rows: list[synthesis.Row], split: str) -> None:
    """One line per split with scores that are not comparable, and one for rows without a score on `split`."""
    for scored_split in synthesis.SPLITS:
        marked = synthesis.not_comparable(rows, scored_split)
        if marked:
            named = "; ".join(f"{name} ({', '.join(keys)})" for name, keys in marked.items())
            warn(f"{scored_split} scores marked {synthesis_tables.MARK} are not comparable with the others: {named}")
    missing = [row.name for row in rows if split not in row.scores]
    if missing:
        warn(f"no metrics of {split}, so at the end: {', '.join(missing)}")


def main(argv: list[str] | None = None) -> None:
    """Print and write the table."""
    args = parse_args(argv)
    with one_line_errors():
        rows = synthesis.best_first(synthesis.collect(args.parent_dir, args.checkpoint, warn), args.split)
        if not rows:
            raise FileNotFoundError(
                f"no metrics of val or test with the {args.checkpoint} weights below {args.parent_dir}. "
                "Run: python train.py --model_dir EXPERIMENT, then python evaluate.py --model_dir EXPERIMENT"
            )
        warn_of_missing_and_not_comparable(rows, args.split)
        table = synthesis_tables.to_markdown(rows, args.split)
        print(table, end="")
        output = args.parent_dir / f"results_{args.split}_{args.checkpoint}"
        storage.write_text(f"{output}.md", table)
        storage.write_text(f"{output}.csv", synthesis_tables.to_csv(rows, args.split))
        print(f"\nwritten: {output}.md, {output}.csv")


if __name__ == "__main__":
    main()
