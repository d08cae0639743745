"""Checks what `make demo` made: every file, and scores that a network without eyes would not reach.

python tests/check_demo.py results/demo
"""

import sys
from pathlib import Path

import pandas as pd

FIGURES = [
    "dataset_samples", "split_distribution", "augmentation", "architecture", "training_losses",
    "validation_f1_focal", "validation_f1_per_class", "pr_curve", "human_vs_machine",
    "generations", "training_step",
]  # fmt: skip
TABLES = [
    "best_thresholds", "human_vs_machine", "speed", "summary", "training_step", "provenance",
]  # fmt: skip
LEAST_MACRO_F1 = 0.25


def check(results: Path) -> list[str]:
    """What is missing or worse than it must be; empty where all is well."""
    files = [f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "pdf")]
    files += [f"tables/{name}.csv" for name in TABLES]
    files += [f"audit/{name}" for name in ("leakage.csv", "twins.csv", "conflicts.csv")]
    files += ["report.html", "predictions/demo/demo_test/submission.csv"]
    files += ["evaluation/demo/demo_test/subsets.csv"]
    faults = [f"{name} is missing or empty" for name in files if not _filled(results / name)]
    evaluation = results / "evaluation/demo/demo_test"
    metrics = pd.read_csv(evaluation / "metrics.csv", dtype={"fold": str, "strategy": str})
    constant = (
        pd.read_csv(evaluation / "baselines.csv").query("metric == 'macro_f1'")["value"].max()
    )
    scores = metrics.query("metric == 'macro_f1' and strategy == 'global'").set_index("fold")[
        "value"
    ]
    for fold, score in scores.items():
        print(
            f"macro F1 on simulated test cells, {fold}: {score:.4f} (best constant {constant:.4f})"
        )
    if scores["mean"] < max(LEAST_MACRO_F1, 2 * constant):
        faults.append(
            f"macro F1 {scores['mean']:.4f} is below {LEAST_MACRO_F1} or twice {constant}"
        )
    return faults


def _filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 20


if __name__ == "__main__":
    found = check(Path(sys.argv[1]))
    sys.exit("\n".join(found) or 0)
