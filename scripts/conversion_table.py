"""Converts trained ANNs in several ways, and writes a table and a picture of accuracy against the number of steps.

python scripts/conversion_table.py RUN... [name=conversion] [key=value ...]

Every RUN is the directory of a finished run with rule=conversion. Its ANN is tested by `snnrun eval` once for each way
below that suits its activation, over 128 steps; nothing is trained. Other settings go to `eval`, such as
trainer.limit_test_batches=8. Writes results/NAME.csv, a row for each ANN and way, and results/NAME.png.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.style
import yaml
from matplotlib.figure import Figure

from snnrun.report import picture

RESULTS = Path(__file__).parents[1] / "results"
STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
# by the activation that the ANN was trained with
WAYS = {
    "relu": {
        "constant threshold": ["neuron=if", "rule.scale=max"],
        "percentile": ["neuron=if", "rule.scale=percentile"],
        "burst": ["neuron=burst", "rule.scale=percentile"],
        # the second of the paper's two sets of constants
        "MSAT": ["neuron=msat", "rule.scale=max", "neuron.tau_mp=0.2", "neuron.tau_rd=0.1"],
    },
    "qcfs": {"QCFS": ["neuron=if"]},
}
COLOURS = {
    "constant threshold": "#8A8A8A",
    "percentile": "#E69F00",
    "burst": "#009E73",
    "MSAT": "#0072B2",
    "QCFS": "#D55E00",
}


def configuration(run: Path) -> dict[str, Any]:
    """The configuration of a run."""
    cfg = yaml.safe_load((run / ".hydra" / "config.yaml").read_text())
    if "activation" not in cfg["rule"]:
        raise SystemExit(f"{run} is no run with rule=conversion.")
    return cfg


def convert(run: Path, words: list[str]) -> dict[str, Any]:
    """What `snnrun eval` says of a run with these settings."""
    command = [sys.executable, "-m", "snnrun", "eval", str(run), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[3:])} ended with code {done.returncode}.")
    return json.loads(done.stdout)


def row(
    run: Path, way: str, words: list[str], more: list[str]
) -> tuple[dict[str, Any], list[float]]:
    """A line of the table, and the accuracy after every step."""
    cfg = configuration(run)
    steps = [] if any(o.startswith("dataset.steps=") for o in more) else ["dataset.steps=128"]
    outcome = convert(run, [*words, *steps, *more])
    accuracy = outcome["accuracy_by_step"]
    line = {
        "dataset": cfg["dataset"]["_target_"].rpartition(".")[2],
        "network": cfg["model"].get("spec", cfg["model"].get("depth")),
        "pool": cfg["model"].get("pool", ""),
        "seed": cfg["seed"],
        "conversion": way,
        "settings": " ".join(words),
        "ann": round(outcome["metrics"]["test/acc_ann"], 2),
        **{f"T={t}": round(accuracy[t - 1], 2) for t in STEPS if t <= len(accuracy)},
        "best": round(max(accuracy), 2),
        "spikes_a_neuron_and_step": round(outcome["spikes"]["rate"], 4),
        "ac": outcome["ops"]["ac"],
        "energy_nj": outcome["ops"]["energy_nj"],
        "ann_energy_nj": outcome["ops"]["ann_energy_nj"],
    }
    return line, accuracy


def draw(curves: list[tuple[dict[str, Any], list[float]]]) -> Figure:
    """A panel for each pooling: accuracy against steps, a curve for each conversion, dashes for its ANN."""
    pools = list(dict.fromkeys(str(line["pool"]) for line, _ in curves))
    with matplotlib.style.context(["default", picture.STYLE]):
        fig = Figure(figsize=(5.2 * len(pools), 4.2), dpi=150, layout="constrained")
        axes = fig.subplots(1, len(pools), squeeze=False, sharey=True)[0]
        for ax, pool in zip(axes, pools, strict=True):
            for line, accuracy in curves:
                if str(line["pool"]) != pool:
                    continue
                colour = COLOURS[line["conversion"]]
                t = range(1, len(accuracy) + 1)
                ax.plot(t, accuracy, color=colour, linewidth=1.8, label=line["conversion"])
                ax.axhline(
                    line["ann"], color=colour, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0
                )
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter("{x:.0f}")
            network = next(line for line, _ in curves if str(line["pool"]) == pool)
            words = {"avg": "average pooling", "max": "maximum pooling"}.get(pool, "")
            ax.set(xlabel="time steps", title=f"{network['dataset']} {network['network']}, {words}")
            ax.grid(axis="y", color=picture.FAINT, linewidth=0.8)
            ax.legend(loc="lower right", fontsize=9, title="dashed: the ANN")
        axes[0].set_ylabel("accuracy on test data (%)")
    return fig


def main(words: list[str]) -> int:
    """See the top of the file."""
    runs = [Path(word) for word in words if (Path(word) / ".hydra").is_dir()]
    settings = [word for word in words if Path(word) not in runs]
    name = next((s.partition("=")[2] for s in settings if s.startswith("name=")), "conversion")
    more = [s for s in settings if not s.startswith("name=")]
    if not runs or not all("=" in s for s in more):
        raise SystemExit(__doc__)
    curves = []
    for run in runs:
        for way, given in WAYS[configuration(run)["rule"]["activation"]].items():
            curves.append(row(run, way, given, more))
            line = curves[-1][0]
            print(
                " ".join(f"{k}={v}" for k, v in line.items() if k[:2] in ("po", "co", "an", "T="))
            )
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(curves[0][0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(line for line, _ in curves)
    draw(curves).savefig(RESULTS / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
