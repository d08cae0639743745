"""Figure 5: the nine losses and scores of every training step."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from hpaloc.figures import style as look

# The nine of the paper, in its order: what back-propagation sees first, then what is only tracked.
QUANTITIES = {
    "loss_total": "Total loss",
    "bce": "BCE",
    "weighted_bce": "Class-weighted BCE",
    "soft_f1_loss": "Soft-F1 loss",
    "focal_loss": "Focal loss",
    "macro_f1": "Macro F1",
    "micro_precision": "Micro precision",
    "micro_recall": "Micro recall",
    "iou": "IOU",
}
LOSSES = ("loss_total", "bce", "weighted_bce", "soft_f1_loss", "focal_loss")
COLUMNS = ("step", "epoch", "phase", *QUANTITIES)
PHASES = {
    "bce": "BCE",
    "soft_f1": "soft F1 + weighted BCE",
    "soft_f1_scaled": "weighted BCE scaled up",
}
MOST_POINTS = 500


def tidy(steps: pd.DataFrame) -> pd.DataFrame:
    """Step tables of several folds as one row per fold, quantity and bin of steps.

    ``steps`` has ``fold`` and COLUMNS. A bin holds as many consecutive steps of
    one phase as it takes to come to about MOST_POINTS bins per fold: ``value`` is
    their mean, ``low`` and ``high`` their extremes, ``step`` the first. With
    few steps a bin is one step and all three are the recorded value. ``smoothed``
    is the exponential mean of the phase's steps up to the bin's end, with a span
    of 2 % of the fold's steps (at least 5).
    """
    parts = []
    for fold, group in steps.groupby("fold", sort=True):
        group = group.sort_values("step", kind="stable").reset_index(drop=True)
        size = -(-len(group) // MOST_POINTS)
        span = max(5, round(0.02 * len(group)))
        # A bin never mixes two phases: the jump at a switch of the loss stays a jump.
        new_phase = group["phase"].ne(group["phase"].shift())
        phase_number = new_phase.cumsum()
        within = group.groupby(phase_number).cumcount() // size
        bins = [phase_number.to_numpy(), within.to_numpy()]
        first = group.groupby(bins, sort=True)
        frame = pd.DataFrame(
            {
                "fold": fold,
                "step": first["step"].first().to_numpy(),
                "epoch": first["epoch"].first().to_numpy(),
                "phase": first["phase"].first().to_numpy(),
            }
        )
        for name in QUANTITIES:
            smoothed = group.groupby(phase_number)[name].transform(
                lambda values, span=span: values.ewm(span=span).mean()
            )
            parts.append(
                frame.assign(
                    quantity=name,
                    value=first[name].mean().to_numpy(),
                    low=first[name].min().to_numpy(),
                    high=first[name].max().to_numpy(),
                    smoothed=smoothed.groupby(bins, sort=True).last().to_numpy(),
                )
            )
    return pd.concat(parts, ignore_index=True)


def switches(table: pd.DataFrame) -> list[tuple[str, float]]:
    """The phases of a fold that begin after its first step, each with the step of its first bin."""
    one = table[table["quantity"] == table["quantity"].iloc[0]].sort_values("step")
    began = one[one["phase"].ne(one["phase"].shift())].iloc[1:]
    return list(zip(began["phase"], began["step"], strict=True))


def draw(table: pd.DataFrame, style: dict[str, Any], recipe: str) -> Figure:
    """Three by three panels of ``tidy``'s table; the first fold strong, the others light."""
    colours = style["colours"]
    folds = list(dict.fromkeys(table["fold"]))
    main = table[table["fold"] == folds[0]]
    fig = look.figure(style, height_mm=140)
    others = f"; other folds ({', '.join(map(str, folds[1:]))}) in grey" if folds[1:] else ""
    look.title(
        fig,
        "Losses and scores by training step",
        f"recipe {recipe}, fold {folds[0]}: pale = every step, line = smoothed{others}",
    )
    axes = fig.subplots(3, 3, sharex=True)
    marks = switches(main)
    for ax, (name, label) in zip(axes.flat, QUANTITIES.items(), strict=True):
        colour = colours["red"] if name in LOSSES else colours["blue"]
        for fold in folds[1:]:
            other = table[(table["fold"] == fold) & (table["quantity"] == name)]
            ax.plot(
                other["step"], other["smoothed"], color=colours["grey"], lw=0.5, alpha=0.6, zorder=2
            )
        rows = main[main["quantity"] == name]
        ax.fill_between(rows["step"], rows["low"], rows["high"], color=colour, alpha=0.22, lw=0)
        ax.plot(rows["step"], rows["value"], color=colour, lw=0.35, alpha=0.6)
        ax.plot(
            rows["step"], rows["smoothed"], look.dot_if_alone(rows) + "-", color=colour, zorder=3
        )
        ax.set_title(label)
        ax.grid(axis="y")
        ax.margins(x=0.01)
        if name in LOSSES:
            _limit_losses(ax, rows, table[table["quantity"] == name])
        else:
            ax.set_ylim(0, 1)
        for number, (_, step) in enumerate(marks):
            ax.axvline(step, color=colours["black"], lw=0.7, ls=("--", ":")[number % 2], zorder=1)
    for ax in axes[-1]:
        ax.set_xlabel("training step")
        ax.xaxis.set_major_formatter(_thousands)
    if marks:
        handles = [
            ax.plot([], [], color=colours["black"], lw=0.7, ls=("--", ":")[number % 2])[0]
            for number in range(len(marks))
        ]
        texts = [f"from step {step:,.0f}: {PHASES.get(phase, phase)}" for phase, step in marks]
        look.legend(fig, handles, texts, ncols=len(marks))
    return fig


def _limit_losses(ax: Any, rows: pd.DataFrame, of_all_folds: pd.DataFrame) -> None:
    """A logarithmic axis where a loss spans more than a factor of 30, else one from zero."""
    low, high = of_all_folds["smoothed"].min(), of_all_folds["smoothed"].max()
    if low > 0 and high / low > 30:
        ax.set_yscale("log")
    else:
        # A single step far out would flatten the rest: at most three times the smoothed maximum.
        ax.set_ylim(0, 1.05 * max(high, min(rows["high"].max(), 3 * high)))


def _thousands(value: float, _position: int) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"
