"""Collects finished runs into results/demo.csv, and writes the README's tables from results/.

python scripts/readme_tables.py RUN...    add or replace these runs, then write the tables
python scripts/readme_tables.py           write the tables
python scripts/readme_tables.py --check   exit 1 if a table in the README is another

The other tables are made of results/benchmark.csv, which `scripts/benchmark.py --csv` writes, and of
results/conversion.csv, which `scripts/conversion_table.py` writes.
"""

import csv
import difflib
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).parents[1]
README, RESULTS = ROOT / "README.md", ROOT / "results"
BEGIN, END = "<!-- {} table -->\n", "<!-- end of {} table -->"
ELSEWHERE = ("paths.", "hydra.", "seed=", "dataset.fold=", "keep_memory=")


WORKLOADS = {
    "lif_t4": "LIF neurons, T=4",
    "lif_t16": "LIF neurons, T=16",
    "lif_t64": "LIF neurons, T=64",
    "lif_t500": "LIF neurons, T=500",
    "linear": "Linear 512 + LIF, batch 16, T=500",
    "conv": "conv 3-64-64 + BN + LIF, 32x32, batch 16, T=4",
    "sew": "SEW ResNet-18, 32x32, batch 8, T=4",
    "sew20": "SEW ResNet-20, 32x32, batch 8, T=4",
    "user": "a user's neuron, T=16",
    "tssl_t5": "TSSL-BP neurons, T=5",
    "tssl_t30": "TSSL-BP neurons, T=30",
    "tssl_t100": "TSSL-BP neurons, T=100",
    "tssl_conv": "conv 12-64 + TSSL-BP neurons, 16x16, batch 16, T=30",
}
OTHERS = {
    "spikingjelly network": "SpikingJelly",
    "spikingjelly": "SpikingJelly's neurons",
    "scan": "`scan`",
    "published": "the published sums",
}


def row(run: Path) -> dict[str, object]:
    """What the table needs of a run's `result.json`."""
    result = json.loads((run / "result.json").read_text())
    if result["status"] != "completed":
        raise SystemExit(f"{run} is not completed but {result['status']}.")
    setting = [o for o in result["overrides"] if not o.startswith(ELSEWHERE)]
    fold = next((o for o in result["overrides"] if o.startswith("dataset.fold=")), "=0")
    return {
        "command": " ".join(["snnrun", *setting]),
        "seed": result["seed"],
        "fold": fold.partition("=")[2],
        "dataset": result["parts"]["dataset"],
        "test_acc": round(result["metrics"]["test/acc"], 2),
        "test_acc_last": round(result["selection"]["last"]["test/acc"], 2),
        "epochs": result["epochs"],
        "parameters": result["parameters"],
        "train": result["data"]["train"],
        "test": result["data"]["test"],
        "seconds": round(sum(result["seconds"].values()), 1),
        "samples_per_second": result["samples_per_second"],
        "rate": round(result["spikes"]["rate"], 4),
        "ac": result["ops"]["ac"],
        "mac": result["ops"]["mac"],
        "ann_mac": result["ops"]["ann_mac"],
        "energy_nj": result["ops"]["energy_nj"],
        "ann_energy_nj": result["ops"]["ann_energy_nj"],
        "threads": result["hardware"]["threads"],
        "cpu": result["hardware"]["cpu"],
        "torch": result["versions"]["torch"],
        "commit": result["git"]["commit"],
    }


def load(name: str) -> list[dict[str, str]]:
    """The rows of a file of results."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def save(rows: list[dict[str, str]]) -> None:
    """Write the file of the demonstrations."""
    with (RESULTS / "demo.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def demo(rows: list[dict[str, str]]) -> str:
    """A line a command, averaged over seeds and folds."""
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for entry in rows:
        groups[entry["command"]].append(entry)
    lines = [
        "| command | runs | test accuracy | epochs | time a run | spikes a neuron and step | energy, ANN's |",
        "|---|---|---|---|---|---|---|",
    ]
    for command, members in groups.items():

        def over(key: str, members: list[dict[str, str]] = members) -> list[float]:
            return [float(m[key]) for m in members]

        acc = over("test_acc")
        spread = f" ± {stdev(acc):.2f}" if len(acc) > 1 else ""
        folds = len({m["fold"] for m in members}) > 1
        seeds = ", ".join(sorted({m["seed"] for m in members}))
        runs = f"{len(acc)} folds" if folds else f"seed {seeds}"
        threads = {m["threads"] for m in members}
        energy, ann = mean(over("energy_nj")) / 1000, mean(over("ann_energy_nj")) / 1000
        lines.append(
            f"| `{command}` | {runs} | {mean(acc):.2f}{spread} % | {members[0]['epochs']} |"
            f" {mean(over('seconds')):,.0f} s, {'/'.join(sorted(threads))} thread{'' if threads == {'1'} else 's'} |"
            f" {mean(over('rate')):.3f} | {energy:.3g} uJ, {ann:.3g} uJ |"
        )
    machines = sorted({f"{r['cpu']}, torch {r['torch']}" for r in rows})
    return "\n".join([*lines, "", f"Machine: {'; '.join(machines)}.", ""])


def benchmark(rows: list[dict[str, str]]) -> str:
    """A line a workload: our time, the other's, how many times as fast, and what is possible with the same layers."""
    lines = [
        "| forward and backward, float32 | ours | against | times as fast | at most | on two threads |",
        "|---|---|---|---|---|---|",
    ]
    times = {(r["threads"], r["workload"], r["contestant"]): float(r["ms"]) for r in rows}
    limits = {
        r["workload"]: float(r["limit ms"]) for r in rows if r["threads"] == "1" and r["limit ms"]
    }
    for workload, title in WORKLOADS.items():
        for other, name in OTHERS.items():
            if (theirs := times.get(("1", workload, other))) is None:
                continue
            ours, limit = times["1", workload, "ours"], limits.get(workload)
            own = f"{ours:.0f}" if ours > 100 else f"{ours:.3g}"
            most = f"{theirs / limit:.{1 if theirs / limit > 3 else 2}f}" if limit else ""
            two = [times.get(("2", workload, who)) for who in (other, "ours")]
            lines.append(
                f"| {title} | {own} ms | {name}, {theirs:.0f} ms | {_ratio(theirs, ours)} | {most} |"
                f" {_ratio(*two)} |"
            )
    machines = sorted({f"{r['cpu']}, torch {r['torch']}, {r['date']}" for r in rows})
    return "\n".join([*lines, "", f"Machine: {'; '.join(machines)}.", ""])


def _ratio(theirs: float | None, ours: float | None) -> str:
    if theirs is None or ours is None:
        return ""
    return f"**{theirs / ours:.{1 if theirs / ours > 3 else 2}f}**"


def conversion(rows: list[dict[str, str]]) -> str:
    """A line a way of converting: accuracy of the ANN, and after so many steps."""
    steps = [key for key in rows[0] if key.startswith("T=")]
    lines = [
        f"| pooling | conversion | ANN | {' | '.join(steps)} |",
        "|---|---|" + "---|" * (1 + len(steps)),
    ]
    for entry in rows:
        values = " | ".join(f"{float(entry[key]):.2f}" for key in ("ann", *steps))
        lines.append(f"| {entry['pool']} | {entry['conversion']} | {values} |")
    return "\n".join([*lines, ""])


def main(words: list[str]) -> int:
    """See the top of the file."""
    if words and words != ["--check"]:
        new = [{key: str(value) for key, value in row(Path(word)).items()} for word in words]
        keys = {(r["command"], r["seed"], r["fold"]) for r in new}
        kept = [r for r in load("demo") if (r["command"], r["seed"], r["fold"]) not in keys]
        save(sorted([*kept, *new], key=lambda r: (r["command"], r["fold"], r["seed"])))
    wanted = text = README.read_text()
    for name, table in (("demo", demo), ("benchmark", benchmark), ("conversion", conversion)):
        before, rest = wanted.split(BEGIN.format(name))
        _, after = rest.split(END.format(name))
        rows = load(name)
        made = table(rows) if rows else ""
        wanted = before + BEGIN.format(name) + made + END.format(name) + after
    if words == ["--check"]:
        drift = difflib.unified_diff(
            text.splitlines(), wanted.splitlines(), "README.md", "results", "", "", 0
        )
        print("\n".join(drift), end="")
        return int(wanted != text)
    README.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
