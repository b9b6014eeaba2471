"""What a sweep costs beside its runs: jobs whose run does nothing but leave a result.

    python scripts/sweep_overhead.py [JOBS] [hydra.launcher.fork=false] [hydra.launcher.jobs=4] ...

Prints seconds of the processor a job, in this process (composing, watching) and in the job's own (from its start to
its result; a fresh interpreter also imports), and seconds by the clock, from the start of the first job to the end.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def nothing(cfg: Any) -> int:
    """A job without a run."""
    from snnrun import launch, result, run

    run.train = lambda job, **how: result.unfinished(job, "completed", None)
    result.footer = lambda outcome, folder: []
    code = launch.job(cfg)
    folder = Path(cfg.hydra.runtime.output_dir)
    (folder / "seconds.json").write_text(json.dumps([time.process_time(), time.time()]))
    return code


def main(words: list[str]) -> None:
    """Run the sweep in a folder that is removed, and print what it took."""
    from sweep_overhead import nothing  # by a name that other processes know

    from snnrun import jobs
    from snnrun.launch import train

    count = int(words.pop(0)) if words and words[0].isdigit() else 200
    jobs.run_job = nothing
    began: list[float] = []
    before = jobs.Sweep.prepare

    def prepare(self: Any, *args: Any) -> Any:
        began.append(time.time())
        return before(self, *args)

    jobs.Sweep.prepare = prepare  # pyright: ignore[reportAttributeAccessIssue]
    with tempfile.TemporaryDirectory() as folder:
        started, processor = time.time(), time.process_time()
        words += [f"seed=range(0,{count})", f"hydra.sweep.dir={folder}/sweep"]
        code = train(["-m", *words])
        ours = time.process_time() - processor
        files = list(Path(folder).glob("sweep/*/seconds.json"))
        times = [json.loads(path.read_text()) for path in files]
    assert code == 0 and len(times) == count, f"{len(times)} of {count} jobs ended"
    theirs = sum(one for one, _ in times) / count
    clock = max(end for _, end in times) - began[0]
    print(
        f"{count} jobs: a job takes {ours / count:.2f} s of the processor here and {theirs:.2f} s in its process;"
        f" {clock / count:.2f} s by the clock (load {os.getloadavg()[0]:.0f}, {os.cpu_count()} cores),"
        f" {began[0] - started:.1f} s before the first"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
