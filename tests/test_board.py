"""What is shown of a sweep: lines, and on a terminal a table."""

import json
from io import StringIO
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from snnrun.board import Board, clock
from snnrun.jobs import Task
from snnrun.pool import Job


@pytest.fixture
def tasks(tmp_path) -> list[Task]:
    """One of every state."""
    states = ("done", "running", "failed", "queued", "interrupted")
    made = []
    for number, state in enumerate(states):
        name = f"seed={number},dataset=[a]"
        task = Task(number, name, [], tmp_path / f"seed={number}", state)
        task.folder.mkdir()
        task.cfg = OmegaConf.create({"trainer": {"max_epochs": 5}})
        if state != "queued":
            task.job = Job(name, task.folder, lambda slot: None, started=10.0, ended=85.0)
            (task.folder / "metrics.csv").write_text(
                "step,epoch,train/acc,val/acc\n13,0,30.0,20.0\n26,1,31.0,21.5\n39,2,3"
            )
        made.append(task)
    metrics = {"val/acc": 97.0, "test/acc": 96.256, "train/acc": 99.0}
    result = {"status": "completed", "metrics": metrics}
    (made[0].folder / "result.json").write_text(json.dumps(result))
    made[2].error = "\n".join(f"line {n}" for n in range(12))
    (made[2].folder / "log.txt").touch()
    return made


def test_a_line_a_job_where_there_is_no_terminal(tasks, tmp_path, capsys):
    board = Board(tmp_path)
    board.show(tasks[3:4], resumed=1)
    board.tasks = tasks
    with board:
        board.turn()
        for task in tasks:
            if task.state not in ("queued", "running"):
                board.ended(task)
    board.close(tasks)
    assert capsys.readouterr().out.splitlines() == [
        f"sweep     {tmp_path}",
        "jobs      1: 1 to go on with",
        "[3/5]  done         seed=0,dataset=[a]  val 97.00 %  test 96.26 %  1:15",
        "[3/5]  failed       seed=2,dataset=[a]  val 21.50 %  1:15",
        *(f"    line {n}" for n in range(4, 12)),
        f"    log: {tasks[2].folder / 'log.txt'}",
        "[3/5]  interrupted  seed=4,dataset=[a]  val 21.50 %  1:15",
        "1 of 5 jobs done, 1 failed, 1 running, 1 interrupted, 1 queued",
        f"Once the cause is gone: snnrun resume {tmp_path}",
    ]


def shown(board: Board, height: int) -> list[str]:
    """The lines of a table on a terminal of some height."""
    board.live = None
    console = Console(file=StringIO(), width=90, height=height)
    table = board.table(console)
    with console.capture() as captured:
        console.print(table)
    return [" ".join(line.split()) for line in captured.get().splitlines()]


def test_the_table_of_a_terminal(tasks, tmp_path):
    board = Board(tmp_path)
    board.tasks = tasks
    lines = shown(board, 24)
    assert lines[0] == "job state epoch train val test time"
    assert lines[1] == "seed=0,dataset=[a] done 2/5 97.00 96.26 1:15"
    assert lines[2] == "seed=1,dataset=[a] running 2/5 21.50 1:15"
    assert lines[4] == "seed=3,dataset=[a] queued 0/5"
    assert lines[6] == "1 failed, 1 running, 1 interrupted, 1 done, 1 queued"


def test_what_matters_most_is_shown_where_not_all_have_room(tasks, tmp_path):
    board = Board(tmp_path)
    board.tasks = tasks
    lines = shown(board, 8)
    assert [line.split()[0] for line in lines[1:3]] == ["seed=1,dataset=[a]", "seed=2,dataset=[a]"]
    assert len(lines) == 4


def test_time_as_people_read_it(tasks):
    task = tasks[0]
    assert task.job
    for seconds, told in ((5, "0:05"), (75, "1:15"), (3675, "1:01:15")):
        task.job.ended = task.job.started + seconds
        assert clock(task) == told
    assert clock(Task(0, "", [], Path())) == ""
