"""Holds an evaluation to what the demo promises; `.ci/run` calls it after each of the two demos.

python tests/check_demo.py runs/demo/evaluation.json --dives=40 --execution=0.5
"""

import argparse
import json
import pathlib
import sys

LEAST_LEAD = 0.3  # over the mean completeness of a dive number, which sees no pixel


def main(argv: list[str]) -> int:
    """Prints the figures beside their limits; returns 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="evaluation.json")
    parser.add_argument("--dives", type=int, required=True, help="least number of test dives")
    parser.add_argument("--execution", type=float, required=True, help="least execution Spearman")
    parser.add_argument("--mask_iou", type=float, help="least IoU at the reference's threshold")
    given = parser.parse_args(argv)
    table = json.loads(pathlib.Path(given.path).read_text())
    execution = table["metrics"]["execution_spearman"]
    lead = execution - table["baselines"]["dive_number_mean"]["execution_spearman"]
    checks = [
        ("test dives", len(table["dives"]), given.dives),
        ("execution Spearman", execution, given.execution),
        ("lead over the dive number's mean", lead, LEAST_LEAD),
    ]
    if given.mask_iou is not None:
        found = table["masks"]["reference"]["mask_iou"]
        checks.append(("mask IoU", found, given.mask_iou))
    for name, found, least in checks:
        print(f"{name}: {found:.4g}, at least {least}: {'ok' if found >= least else 'MISSED'}")
    # Not "found < least": what is not a number misses.
    return int(not all(found >= least for _, found, least in checks))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
