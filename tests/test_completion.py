"""What a shell offers at <tab>."""

from pathlib import Path

import pytest

from snnrun.cli import VERBS
from snnrun.completion import query

NEURON = """\
# Mine
_target_: snnrun.neuron.LIF
surrogate: ${surrogate}
tau: 4.0
"""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("snnrun re", {"report", "rerun", "resume", "readout.", "readout=", "recompute="}),
        ("snnrun neuron=cuba", {"neuron=cuba_lif"}),
        ("snnrun -m neuron=lif,cub", {"neuron=lif,cuba_lif"}),
        ("snnrun logger=[csv,wan", {"logger=[csv,wandb"}),
        ("snnrun experiment=demo/mnist", {"experiment=demo/mnist_convnet"}),
        ("snnrun neuron=alif neuron.be", {"neuron.beta="}),
        ("snnrun neuron=lif neuron.be", set()),
        ("snnrun -m seed=1,2 neuron=alif,plif neuron.be", {"neuron.beta="}),
        ("snnrun neuron=nonsense trainer.max_e", {"trainer.max_epochs="}),
        ("snnrun check dataset=nm", {"dataset=nmnist"}),
        ("snnrun rerun RUN optimizer.l", {"optimizer.lr="}),
        ("snnrun list enc", {"encoder"}),
        ("snnrun list encoder ", None),
        ("snnrun paper ", {"list", "run", "compare"}),
        ("snnrun new r", {"rule"}),
        ("snnrun report outputs base", {"baseline="}),
        ("snnrun resume out", set()),  # names of files are the shell's
        ("snnrun --config-dir co", set()),
        ("snnrun --conf", {"--config-dir"}),
        ("snnrun kernel=sc", {"kernel=scan"}),
        ("snnrun +neuron=ali", {"+neuron=alif"}),
    ],
)
def test_query(line, words):
    found = query(line, list(VERBS))
    assert len(found) == len(set(found))
    if words is not None:
        assert set(found) == words


def test_with_nothing_typed_there_are_verbs_and_groups():
    found = set(query("snnrun ", list(VERBS)))
    assert set(VERBS) <= found
    assert {"neuron=", "neuron.", "seed=", "experiment=", "trainer.max_epochs="} - found == {
        "trainer.max_epochs="
    }
    assert not any(word.startswith(("hydra", "_", "experiment/")) for word in found)


@pytest.mark.parametrize(
    "flag", ["--config-dir mine", "--config-dir=mine", "-cd mine", "hydra.searchpath=[file://mine]"]
)
def test_parts_of_ones_own(flag, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine" / "neuron" / "my_own.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(NEURON)
    assert query(f"snnrun {flag} neuron=my", list(VERBS)) == ["neuron=my_own"]
    assert query(f"snnrun check {flag} neuron=my", list(VERBS)) == ["neuron=my_own"]
    assert query(f"snnrun {flag} neuron=my_own neuron.ta", list(VERBS)) == ["neuron.tau="]
    assert query("snnrun --config-dir nowhere neuron=my", list(VERBS)) == []
