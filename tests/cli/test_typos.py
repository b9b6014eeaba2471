"""Wrong words: exit 2, nothing written, and the exact message with the closest names first."""

import pytest

from snnrun.config import Choices

NEURON = f"\n  neuron: {', '.join(Choices().options('neuron'))}"
MODEL = f"\n  model: {', '.join(Choices().options('model'))}"
LIF = (
    "\n  neuron: surrogate, tau, threshold, reset, reset_value, decay_input, detach_reset,"
    " learnable, per_channel"
)
VERBS = "Verbs are list, show, check, eval, resume, rerun, paper, report, plot, doctor, new."

WRONG = {
    # groups
    "neruon=lif": "neruon=lif: there is no group or key 'neruon'. Did you mean neuron?",
    "frobnicator=3": "frobnicator=3: there is no group or key 'frobnicator'.",
    # options
    "neuron=lfi": f"neuron=lfi: there is no such neuron. Did you mean lif or li?{NEURON}",
    "neuron=": f"neuron=: there is no such neuron.{NEURON}",
    "neuron=lfi model=mpl": (
        f"neuron=lfi: there is no such neuron. Did you mean lif or li?{NEURON}\n"
        f"model=mpl: there is no such model. Did you mean mlp?{MODEL}"
    ),
    "-m neuron=lif,plfi": (
        f"neuron=plfi: there is no such neuron. Did you mean plif or li?{NEURON}"
    ),
    "neuron=[lif,plif]": "neuron=[lif,plif]: neuron takes one option, not a list.",
    "neuron=null": f"neuron=null is not possible.{NEURON}",
    "logger=null": "logger=null is not possible; write 'logger=[]' for none.",
    "callbacks=null": "callbacks=null is not possible; write 'callbacks=[]' for none.",
    "logger=[csv,wndb]": (
        "logger=wndb: there is no such logger. Did you mean wandb?\n"
        "  logger: csv, tensorboard, wandb"
    ),
    # keys
    "neuron.taau=3": f"neuron.taau=3: neuron has no key 'taau'. Did you mean neuron.tau?{LIF}",
    "neuron.taau=3 sede=1": (
        f"neuron.taau=3: neuron has no key 'taau'. Did you mean neuron.tau?{LIF}\n"
        "sede=1: there is no group or key 'sede'. Did you mean seed or scheduler?"
    ),
    "neuron=li neuron.threshold=3": (
        "neuron.threshold=3: neuron has no key 'threshold'.\n  neuron: tau, decay_input"
    ),
    "+neuron.tua=3": "neuron.tua: snnrun.neuron.LIF takes no tua. Did you mean tau?",
    # types
    "neuron.tau=abc": "neuron.tau must be a number, got 'abc'.",
    "neuron.tau=true": "neuron.tau must be a number, got True.",
    "neuron.tau=null": "neuron.tau must be a number, got None.",
    "dataset.steps=2.5": "dataset.steps must be a whole number, got 2.5.",
    "neuron.detach_reset=maybe": "neuron.detach_reset must be true or false, got 'maybe'.",
    "neuron.reset=sotf": "neuron.reset must be hard, soft or none, got 'sotf'.",
    "dataset.root=3": "dataset.root must be text, got 3.",
    "dataset=mnist dataset.mean=[a]": (
        "dataset.mean must be a list of numbers or null, got ['a']."
    ),
    "dataset=mnist dataset.mean=0.5": "dataset.mean must be a list of numbers or null, got 0.5.",
    "neuron.tau=abc dataset.steps=2.5 trainer.max_epochs=x seed=abc ema=x test=3": (
        "seed must be a whole number, got 'abc'.\n"
        "ema must be a number, got 'x'.\n"
        "test must be true or false, got 3.\n"
        "neuron.tau must be a number, got 'abc'.\n"
        "trainer.max_epochs must be a whole number or null, got 'x'.\n"
        "dataset.steps must be a whole number, got 2.5."
    ),
    "-m seed=1,x": "seed must be a whole number, got 'x'.",
    # values
    "trainer.max_epochs=0": "trainer.max_epochs must be at least 1, got 0.",
    "trainer.max_epochs=null": "trainer.max_epochs must be at least 1, got None.",
    "seed=-1": "seed must lie between 0 and 4294967295, got -1.",
    # verbs and flags
    "evla x": "There is no verb 'evla'. Did you mean eval? Settings are written key=value.",
    "trian": f"There is no verb 'trian'. {VERBS} Settings are written key=value.",
    "--frobnicate": "Unrecognized arguments: --frobnicate; `snnrun --help` lists what there is.",
    "seed=1 --frobnicate": (
        "Unrecognized arguments: --frobnicate; `snnrun --help` lists what there is."
    ),
    "--cfg everything": (
        "Argument --cfg/-c: invalid choice: 'everything' (choose from {choices});"
        " `snnrun --help` lists what there is."
    ),
    "list --frobnicate": (
        "There is no flag --frobnicate here; `snnrun --help` lists what there is."
    ),
    "--config-dir nowhere": "--config-dir: there is no folder nowhere.",
    "list --config-dir nowhere": "--config-dir: there is no folder nowhere.",
    "list nuron": "There is no group 'nuron'. Did you mean neuron?",
    "list neuron model": "Usage: snnrun list [GROUP] [--fits group=option ...].",
    "list neuron --fits enc=latency": (
        "enc=latency: there is no group or key 'enc'. Did you mean encoder?"
    ),
    "show nuron=lif": "nuron=lif: there is no group or key 'nuron'. Did you mean neuron?",
    "check neuron=lfi": f"neuron=lfi: there is no such neuron. Did you mean lif or li?{NEURON}",
    "eval": "Usage: snnrun eval RUN [key=value ...], RUN being the directory of one run.",
    "resume a b": "Usage: snnrun resume RUN [key=value ...], RUN being the directory of one run.",
    "rerun": "Usage: snnrun rerun RUN [key=value ...], RUN being the directory of one run.",
    "new neuron": "Usage: snnrun new neuron|rule|model NAME.",
    "new nueron my": (
        "There is no skeleton of a nueron. Did you mean neuron? Kinds are neuron, rule and model."
    ),
    "new neuron 3x": (
        "NAME must be a Python module name in lower case, such as my_neuron, got '3x'."
    ),
    "new neuron class": (
        "NAME must be a Python module name in lower case, such as my_neuron, got 'class'."
    ),
    "new neuron lif": "neuron=lif exists already; choose another name.",
    "new neuron torch": "torch.py would hide the Python module 'torch'; choose another name.",
}


@pytest.mark.parametrize("words", WRONG)
def test_exact_message(words, snnrun, tmp_path):
    done = snnrun(*words.split())
    quoted = "'job', 'hydra', 'all'"
    choices = (
        quoted if quoted in done.stderr else quoted.replace("'", "")
    )  # Python 3.13 does not quote
    assert done.stderr == WRONG[words].format(choices=choices) + "\n"
    assert done.stdout == ""
    assert done.returncode == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["eval", "resume", "rerun"])
def test_a_folder_that_is_no_run(verb, snnrun, tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("folder", "nowhere"):
        done = snnrun(verb, name)
        assert done.stderr == (
            f"{tmp_path}/{name} is not the directory of a run: there is no .hydra/config.yaml in it.\n"
        )
        assert done.returncode == 2
    assert [p.name for p in tmp_path.rglob("*")] == ["folder"]
