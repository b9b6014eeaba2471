"""Training that goes wrong: a loss that is not a number, layers that stay silent, parts that raise."""

import json
from pathlib import Path

import pytest

from snnrun.finite import REMEDY

BROKEN = """\
from snnrun.neuron import LIF


class Broken(LIF):
    def step(self, x, state):
        raise RuntimeError("out of order")
"""


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(
    ("words", "layer"),
    [
        (
            ["optimizer.lr=1e30"],
            "body.0.synapse; its weight, bias is not finite: a step was too long.",
        ),
        (
            ["optimizer.lr=1e30", "model.spec=32-32-32", "norm=none"],
            "body.0.synapse; its weight, bias is not finite: a step was too long.",
        ),
    ],
)
def test_a_loss_that_is_not_a_number_stops_and_names_the_first_layer(words, layer, warm, tmp_path):
    done = warm(*words, "hydra.run.dir=run", cwd=tmp_path)
    message = done.stdout.splitlines()[-1]
    start, _, rest = message.partition(" at epoch 0, step ")
    assert start == "The loss is nan"
    step, _, rest = rest.partition(". ")
    assert int(step) < 10
    assert rest == f"The first layer whose output is not finite is {layer}{REMEDY}"
    assert (done.returncode, done.stderr) == (1, "")
    outcome = result(tmp_path / "run")
    assert (outcome["status"], outcome["error"]) == ("failed", message)
    assert outcome["metrics"] == {} and outcome["parts"]["model"] == "mlp"
    assert (tmp_path / "run" / "log.txt").read_text().rstrip().endswith(message)


def test_silent_layers_are_warned_of_once(warm, tmp_path):
    words = ("neuron.threshold=1000", "model.spec=16-16", "trainer.max_epochs=2")
    done = warm(*words, "trainer.limit_train_batches=2", "hydra.run.dir=run", cwd=tmp_path)
    lines = done.stdout.splitlines()
    warnings = [number for number, line in enumerate(lines) if line.startswith("warning: ")]
    assert [lines[number] for number in warnings] == [
        "warning: layers body.0, body.1 have not fired once in the first epoch."
        " Try a lower neuron.threshold, norm=batch, or a larger optimizer.lr."
    ]
    assert lines[warnings[0] - 1].startswith("epoch 1/2 ")
    assert lines[warnings[0] + 1].startswith("epoch 2/2 ")
    assert (done.returncode, done.stderr) == (0, "")
    spikes = result(tmp_path / "run")["spikes"]
    assert spikes == {
        "rate": 0.0,
        "layers": {"body.0": 0.0, "body.1": 0.0},
        "silent": {"body.0": 1.0, "body.1": 1.0},
    }


def test_a_part_that_raises_leaves_its_traceback_in_the_log(warm, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "conf" / "neuron").mkdir(parents=True)
    (tmp_path / "conf" / "neuron" / "broken.yaml").write_text(
        "_target_: broken.Broken\nsurrogate: ${surrogate}\n"
    )
    done = warm("--config-dir", "conf", "neuron=broken", "hydra.run.dir=run", cwd=tmp_path)
    message = f"RuntimeError: out of order\nThe traceback is in {tmp_path}/run/log.txt."
    assert done.stdout.endswith(f"\n{message}\n")
    assert (done.returncode, done.stderr) == (1, "")
    outcome = result(tmp_path / "run")
    assert (outcome["status"], outcome["error"]) == ("failed", message)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert 'raise RuntimeError("out of order")' in log and "broken.py" in log
