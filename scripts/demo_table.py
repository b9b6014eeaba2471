"""Collects finished runs into results/demo.csv, and writes the README's table from it.

python scripts/demo_table.py RUN...    add or replace these runs, then write the table
python scripts/demo_table.py           write the table
python scripts/demo_table.py --check   exit 1 if the table in the README is another
"""

import csv
import difflib
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).parents[1]
CSV, README = ROOT / "results" / "demo.csv", ROOT / "README.md"
BEGIN, END = "<!-- demo table -->\n", "<!-- end of demo table -->"
ELSEWHERE = ("paths.", "hydra.", "seed=", "dataset.fold=", "keep_memory=")


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


def load() -> list[dict[str, object]]:
    """The rows of the CSV."""
    if not CSV.exists():
        return []
    with CSV.open(newline="") as file:
        return [dict(line) for line in csv.DictReader(file)]


def save(rows: list[dict[str, object]]) -> None:
    """Write the CSV."""
    with CSV.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def table(rows: list[dict[str, object]]) -> str:
    """The README's table: a line a command, averaged over seeds and folds."""
    groups: dict[str, list[dict[str, object]]] = defaultdict(list)
    for entry in rows:
        groups[str(entry["command"])].append(entry)
    lines = [
        "| command | runs | test accuracy | epochs | time a run | spikes a neuron and step | energy, ANN's |",
        "|---|---|---|---|---|---|---|",
    ]
    for command, members in groups.items():

        def over(key: str, members: list[dict[str, object]] = members) -> list[float]:
            return [float(str(m[key])) for m in members]

        acc = over("test_acc")
        spread = f" ± {stdev(acc):.2f}" if len(acc) > 1 else ""
        folds = len({m["fold"] for m in members}) > 1
        seeds = ", ".join(sorted({str(m["seed"]) for m in members}))
        runs = f"{len(acc)} folds" if folds else f"seed {seeds}"
        threads = {str(m["threads"]) for m in members}
        energy, ann = mean(over("energy_nj")) / 1000, mean(over("ann_energy_nj")) / 1000
        lines.append(
            f"| `{command}` | {runs} | {mean(acc):.2f}{spread} % | {members[0]['epochs']} |"
            f" {mean(over('seconds')):,.0f} s, {'/'.join(sorted(threads))} thread{'' if threads == {'1'} else 's'} |"
            f" {mean(over('rate')):.3f} | {energy:.3g} uJ, {ann:.3g} uJ |"
        )
    machines = sorted({f"{r['cpu']}, torch {r['torch']}" for r in rows})
    return "\n".join([*lines, "", f"Machine: {'; '.join(machines)}.", ""])


def main(words: list[str]) -> int:
    """See the top of the file."""
    rows = load()
    if words and words != ["--check"]:
        new = [row(Path(word)) for word in words]
        keys = {(str(r["command"]), str(r["seed"]), str(r["fold"])) for r in new}
        kept = [r for r in rows if (str(r["command"]), str(r["seed"]), str(r["fold"])) not in keys]
        rows = [*kept, *new]
        rows.sort(key=lambda r: (str(r["command"]), str(r["fold"]), str(r["seed"])))
        save(rows)
    text = README.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    wanted = before + BEGIN + (table(load()) if rows else "") + END + after
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
