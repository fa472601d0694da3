"""Put every metrics file below a folder into one table, the best experiment first.

    python synthesize_results.py --parent_dir experiments --split test

Prints it as Markdown and writes results_test_best.md and results_test_best.csv into the folder. Scores that do
not compare with the others, being of other images, another split or fewer findings, are marked.
"""

import argparse
import pathlib
import sys

from cxr import experiment, storage
from cxr.errors import one_line_errors
from cxr.evaluation import synthesis, synthesis_table


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--parent_dir", type=pathlib.Path, default="experiments", help="default: %(default)s")
    add("--split", choices=synthesis.SPLITS, default="test", help="that the rows are sorted by; default: %(default)s")
    add("--checkpoint", choices=experiment.CHECKPOINTS, default="best", help="default: %(default)s")
    return parser.parse_args(argv)


def warn(text: str) -> None:
    """Say what a reader must know about the table, beside it."""
    print(f"warning: {text}", file=sys.stderr)


def warn_of_strangers(rows: list[synthesis.Row], split: str) -> None:
    """Say in a line a split which scores do not compare, and in what."""
    for scored in synthesis.SPLITS:
        marked = synthesis.strangers(rows, scored)
        if marked:
            named = "; ".join(f"{name} ({', '.join(keys)})" for name, keys in marked.items())
            warn(f"{scored} is not comparable with that of the other rows, and marked {synthesis_table.MARK}: {named}")
    lacking = [row.name for row in rows if split not in row.scores]
    if lacking:
        warn(f"no metrics of {split}, so at the end: {', '.join(lacking)}")


def main(argv: list[str] | None = None) -> None:
    """Print and write the table."""
    args = parse_args(argv)
    with one_line_errors():
        rows = synthesis.by_score(synthesis.collect(args.parent_dir, args.checkpoint, warn), args.split)
        if not rows:
            raise FileNotFoundError(
                f"no metrics of val or test with the {args.checkpoint} weights below {args.parent_dir}. "
                "Run: python train.py --model_dir EXPERIMENT, then python evaluate.py --model_dir EXPERIMENT"
            )
        warn_of_strangers(rows, args.split)
        table = synthesis_table.markdown(rows, args.split)
        print(table, end="")
        output = args.parent_dir / f"results_{args.split}_{args.checkpoint}"
        storage.write_text(f"{output}.md", table)
        storage.write_text(f"{output}.csv", synthesis_table.to_csv(rows, args.split))
        print(f"\nwritten: {output}.md, {output}.csv")


if __name__ == "__main__":
    main()
