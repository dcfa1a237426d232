"""Holds a demo's evaluation to what the demo promises; `.ci/run` calls it after `make demo`.

python tests/check_demo.py runs/demo/evaluation.json
"""

import json
import pathlib
import sys

LEAST_DIVES = 60
LEAST_EXECUTION = 0.6  # execution Spearman
LEAST_LEAD = 0.3  # over the mean completeness of a dive number, which sees no pixel


def main(path: str) -> int:
    """Prints the figures beside their limits; returns 1 where one is missed."""
    table = json.loads(pathlib.Path(path).read_text())
    execution = table["metrics"]["execution_spearman"]
    lead = execution - table["baselines"]["dive_number_mean"]["execution_spearman"]
    checks = [
        ("test dives", len(table["dives"]), LEAST_DIVES),
        ("execution Spearman", execution, LEAST_EXECUTION),
        ("lead over the dive number's mean", lead, LEAST_LEAD),
    ]
    for name, found, least in checks:
        print(f"{name}: {found:.4g}, at least {least}: {'ok' if found >= least else 'MISSED'}")
    return int(any(found < least for _, found, least in checks))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
