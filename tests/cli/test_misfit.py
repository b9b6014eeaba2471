"""Parts that do not fit, and parts that are set and then ignored."""

import pytest

INTENSITY = (
    " needs intensity, which none of the chosen parts has.\n"
    "  dataset: cifar10 with dataset.normalize=false, cifar100 with dataset.normalize=false,"
    " digits, fashion_mnist with dataset.normalize=false, mnist with dataset.normalize=false"
)
MISFITS = {
    "model=convnet dataset=shd": (
        "model=convnet needs spatial, which none of the chosen parts has.\n"
        "  dataset: cifar10, cifar100, cifar10_dvs, digits, dvs_gesture, fashion_mnist, imagenet, mnist, nmnist"
        "   (now shd)"
    ),
    "loss=spike_count": (
        "loss=spike_count needs spiking_output, which none of the chosen parts has.\n"
        "  readout: spike_count, spike_rate, trace_sum   (now mean)"
    ),
    "encoder=latency dataset=mnist loss=spike_count": (
        f"encoder=latency{INTENSITY}   (now mnist)\n"
        "loss=spike_count needs spiking_output, which none of the chosen parts has.\n"
        "  readout: spike_count, spike_rate, trace_sum   (now mean)"
    ),
    "encoder=poisson dataset=nmnist": (
        f"encoder=poisson{INTENSITY}   (now nmnist)\n"
        "encoder=poisson needs static, which none of the chosen parts has.\n"
        "  dataset: cifar10, cifar100, digits, fashion_mnist, imagenet, mnist   (now nmnist)"
    ),
    "rule=tssl neuron=lif": (
        "rule=tssl needs trace, which none of the chosen parts has.\n  neuron: psc_lif   (now lif)"
    ),
    "loss=kernel rule=tssl": (
        "loss=kernel needs trace_output, which none of the chosen parts has.\n"
        "  readout: trace_sum   (now mean)"
    ),
    "readout=spike_rate readout.neuron=${neuron} neuron=li": (
        "readout=spike_rate needs spikes, which none of the chosen parts has.\n"
        "  neuron: alif, binary, cuba_lif, desire_lif, feedback_lif, if, leaky, lif, plif, refractory_lif   (now li)"
    ),
}


@pytest.mark.parametrize("words", MISFITS)
def test_the_message_names_the_word_and_every_option_that_has_it(words, snnrun, tmp_path):
    train, check = snnrun(*words.split()), snnrun("check", *words.split())
    assert train.stderr == check.stderr == MISFITS[words] + "\n"
    assert train.stdout == check.stdout == ""
    assert train.returncode == check.returncode == 2
    assert not list(tmp_path.iterdir())


def test_a_misfit_in_any_value_of_a_sweep_stops_it_before_it_starts(snnrun, tmp_path):
    words = ("-m", "loss=cross_entropy,spike_count", "seed=1,2")
    done = snnrun(*words)
    assert done.stderr == MISFITS["loss=spike_count"] + "\n"
    assert done.returncode == 2
    assert not list(tmp_path.iterdir())


def test_a_part_that_is_set_and_then_ignored_is_warned_of(snnrun):
    warning = "warning: surrogate=triangle has no effect: neuron=li does not use it.\n"
    done = snnrun("show", "neuron=li", "surrogate=triangle")
    assert (done.returncode, done.stderr) == (0, warning)
    done = snnrun("show", "neuron=lif", "surrogate=triangle")
    assert (done.returncode, done.stderr) == (0, "")
    done = snnrun("show", "neuron=li")
    assert (done.returncode, done.stderr) == (0, "")


def test_check_of_a_sound_request(warm, tmp_path):
    done = warm("check", "neuron=li", "surrogate=triangle", "dataset=nmnist", cwd=tmp_path)
    assert done.stderr == (
        "warning: surrogate=triangle has no effect: neuron=li does not use it.\n"
    )
    assert done.stdout == "ok: 595,210 parameters, 10 steps of 2x34x34 to 10 classes\n"
    assert done.returncode == 0
