"""Accuracies against NumPy; spikes, operations and energy against counts made by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from snnrun.encoder import PSC
from snnrun.metric import (
    AC_PJ,
    FORMULA,
    MAC_PJ,
    Activity,
    Tally,
    active,
    fan_out_of,
    total,
)
from snnrun.model import Dropout, FeedbackSNN, Layer, Pool
from snnrun.neuron import IF, LI, PSCLIF, RelPSP, carry
from snnrun.snapshot import watch_spikes
from snnrun.surrogate import ATan

T, B = 4, 2


def fires_at(*currents: float) -> Layer:
    """Two inputs, and a neuron for each current that it gets from an input (1, any): 1 fires at every step, 0.5 at
    every second, 0 never."""
    synapse = nn.Linear(2, len(currents), bias=False)
    synapse.weight.data = torch.tensor([[current, 0.0] for current in currents])
    return Layer(synapse, None, IF(ATan()))


def head(features: int, classes: int) -> Layer:
    return Layer(nn.Linear(features, classes), None, None)


def constant() -> torch.Tensor:
    return torch.tensor([1.0, 7.0]).expand(B, 2).expand(T, B, 2)


def watched(net: nn.Module, x: torch.Tensor, *, current: bool) -> Activity:
    activity = Activity(net)
    with activity.watch(x, current=current):
        net(x)
    return activity


# --- accuracy


@pytest.mark.parametrize("classes", [3, 10, 11, 30])
def test_tally_equals_numpy(classes):
    rng = np.random.default_rng(classes)
    tally, rows = Tally(classes), []
    for size in (7, 5, 1):
        logits = rng.normal(size=(size, classes)).astype(np.float32)
        y = rng.integers(0, classes, size)
        loss = rng.uniform(0, 3)
        tally.update(torch.tensor(loss), torch.from_numpy(logits), torch.from_numpy(y))
        place = (np.argsort(-logits, axis=1) == y[:, None]).argmax(1)
        rows += [(loss, p == 0, p < 5) for p in place]
    expected = np.array(rows, dtype=float).mean(0)
    scores = tally.compute()
    assert scores["loss"] == pytest.approx(expected[0], rel=1e-6)
    assert scores["acc"] == pytest.approx(100 * expected[1])
    assert ("acc5" in scores) == (classes > 10)
    if classes > 10:
        assert scores["acc5"] == pytest.approx(100 * expected[2])


@pytest.mark.parametrize("classes", [4, 40])
def test_of_equal_scores_the_first_class_is_best(classes):
    for score in (0.0, float("-inf")):  # as where no output fires
        tally, logits = Tally(classes), torch.full((classes, classes), score)
        tally.update(torch.tensor(0.0), logits, torch.arange(classes))
        scores = tally.compute()
        assert scores["acc"] == pytest.approx(100 / classes)
        assert classes < 11 or scores["acc5"] == pytest.approx(500 / classes)
        assert not logits.argmax(1).any()


def test_ties_may_be_wrong():
    logits = torch.tensor([[2.0, 2.0, 1.0], [2.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    y = torch.tensor([0, 0, 1, 2])
    tally = Tally(3, ties="wrong")
    tally.update(torch.tensor(0.0), logits, y)
    assert tally.compute()["acc"] == 50
    many = Tally(11, ties="wrong")
    many.update(torch.tensor(0.0), torch.tensor([[3.0] * 5 + [0.0] * 6] * 2), torch.tensor([2, 7]))
    assert many.compute()["acc"] == 0 and many.compute()["acc5"] == 50


def test_an_empty_tally_says_nothing():
    assert Tally(10).compute() == {}


# --- firing


def test_rates_and_silence():
    net = nn.Sequential(fires_at(1, 0, 0.5), head(3, 4))
    seen = watched(net, constant(), current=True)
    assert seen.rates() == {"0": (1 + 0 + 0.5) / 3}  # a head without neurons has no rate
    assert seen.silent() == {"0": pytest.approx(1 / 3)}
    assert seen.rate() == 0.5


def test_rate_of_all_layers_weighs_by_neurons():
    net = nn.Sequential(fires_at(1, 1), fires_at(1, 0, 0, 0, 0, 0))
    seen = watched(net, constant(), current=True)
    assert seen.rates() == {"0": 1.0, "1": pytest.approx(1 / 6)}
    assert seen.rate() == pytest.approx((2 * 1 + 6 * 1 / 6) / 8)


def test_counts_add_up_over_batches_until_reset():
    net = nn.Sequential(fires_at(1, 0), head(2, 4))
    seen = Activity(net)
    silent = torch.zeros(T, 3, 2)
    for x in (constant(), silent):
        with seen.watch(x, current=True):
            net(x)
    assert seen.samples == B + 3
    assert seen.rates() == {"0": pytest.approx(B / (B + 3) / 2)}
    assert seen.silent() == {"0": 0.5}
    seen.reset()
    assert seen.rates() == {} and seen.rate() is None and seen.operations()["ac"] == 0


def test_nothing_is_counted_outside_watch_even_after_an_error():
    net = nn.Sequential(fires_at(1), head(1, 4))
    seen = Activity(net)
    with pytest.raises(KeyError), seen.watch(constant(), current=True):
        raise KeyError
    net(constant())
    assert seen.rates() == {}


def test_an_integrator_gives_a_current_and_has_no_rate():
    net = nn.Sequential(Layer(nn.Linear(2, 3, bias=False), None, LI()), head(3, 4))
    seen = watched(net, constant(), current=True)
    assert seen.rates() == {} and seen.rate() is None
    # 2x3 once, as the input is constant; 3x4 at every step, as the potential is not
    assert seen.operations()["mac"] == 2 * 3 + T * 3 * 4
    assert seen.operations()["ac"] == 0


# --- operations of dense layers


def test_operations_of_a_linear_net():
    seen = watched(nn.Sequential(fires_at(1, 0, 0.5), head(3, 5)), constant(), current=True)
    ac, mac, ann = (4 + 0 + 2) * 5, 2 * 3, 2 * 3 + 3 * 5
    assert seen.operations() == {
        "ac": ac,
        "mac": mac,
        "ann_mac": ann,
        "energy_nj": round((4.6 * mac + 0.9 * ac) / 1000, 3),
        "ann_energy_nj": round(4.6 * ann / 1000, 3),
        "formula": FORMULA,
    }
    assert (MAC_PJ, AC_PJ) == (4.6, 0.9) and "4.6 pJ * MAC + 0.9 pJ * AC" in FORMULA


def test_a_current_that_changes_is_multiplied_at_every_step():
    seen = watched(nn.Sequential(fires_at(1, 0), head(2, 5)), constant().clone(), current=True)
    assert seen.operations()["mac"] == T * 2 * 2


def test_a_constant_input_is_known_through_a_view():
    net = nn.Sequential(nn.Flatten(2), head(2, 3))
    x = torch.ones(1, 1, 2).expand(B, 1, 2).expand(T, B, 1, 2)
    assert watched(net, x, current=True).operations()["mac"] == 2 * 3


def test_spikes_as_input_are_accumulated():
    x = torch.zeros(T, B, 2)
    x[0, 0, 0] = x[2, 0, 0] = x[3, 1, 1] = 1
    seen = watched(nn.Sequential(fires_at(0), head(1, 2)), x, current=False)
    assert (seen.operations()["ac"], seen.operations()["mac"]) == (round(3 * 1 / B), 0)


def test_a_layer_behind_a_current_multiplies_and_one_behind_spikes_does_not():
    net = nn.Sequential(fires_at(1, 1), head(2, 3), head(3, 4))
    seen = watched(net, constant(), current=True)
    assert seen.operations()["mac"] == 2 * 2 + T * 3 * 4
    assert seen.operations()["ac"] == T * 2 * 3


def test_recurrent_weights_see_all_spikes_but_the_last():
    layer = fires_at(1, 1)
    layer.recurrent = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(layer.recurrent.weight)
    seen = watched(nn.Sequential(layer, head(2, 3)), constant(), current=True)
    ops = seen.operations()
    assert ops["ac"] == (T - 1) * 2 * 2 + T * 2 * 3
    assert ops["ann_mac"] == 2 * 2 + 2 * 2 + 2 * 3


# --- traces count as the spikes that they are filtered from


def tracing(layer: Layer, tau_s: float = 3.0) -> Layer:
    """The same layer with neurons that give out traces; they do not leak."""
    neuron = PSCLIF(ATan(), tau_m=1e9, tau_s=tau_s, threshold=0.99)
    return Layer(layer.synapse, None, neuron, layer.recurrent)


def test_a_layer_fed_by_traces_counts_its_sources_spikes():
    net = nn.Sequential(tracing(fires_at(1, 0, 0.5)), head(3, 5))
    seen = watched(net, constant(), current=True)
    assert seen.rates() == {"0": pytest.approx((1 + 0 + 0.5) / 3)}
    assert seen.silent() == {"0": pytest.approx(1 / 3)}
    assert (seen.operations()["ac"], seen.operations()["mac"]) == ((4 + 0 + 2) * 5, 2 * 3)


@pytest.mark.parametrize("tau_s", [1.0, 2.0, 3.0])
def test_recurrent_weights_see_the_spikes_behind_a_trace(tau_s):
    layer = fires_at(1, 0.5)
    layer.recurrent = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(layer.recurrent.weight)
    seen = watched(nn.Sequential(tracing(layer, tau_s), head(2, 3)), constant(), current=True)
    assert seen.operations()["ac"] == (3 + 1) * 2 + (4 + 2) * 3


@pytest.mark.parametrize("kind", ["sum", "avg", "max"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooled_and_dropped_traces(kind, dtype):
    """Image 4x4, one neuron a pixel: of a pooled window, the steps at which any of its neurons fires."""
    copy = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(copy.weight)
    net = nn.Sequential(
        tracing(Layer(copy, None, IF(ATan()))),
        Pool(kind, 2, gain=1.1 if kind == "sum" else 1.0),
        Dropout(0.999),
        Pool(kind, 1),
        nn.Flatten(2),
        head(4, 10),
    ).to(dtype)
    image = torch.zeros(4, 4)
    image[0, 0] = image[0, 1] = 1.0  # one window fires at every step, another at every second
    image[2, 2] = 0.5
    x = image.expand(T, B, 1, 4, 4).to(dtype)
    net.eval()
    assert watched(net, x, current=True).operations()["ac"] == (T + T // 2) * 10
    torch.manual_seed(0)
    assert watched(net.train(), x, current=True).operations()["ac"] == 0, "all dropped"


def test_a_filtered_input_of_events_counts_its_events():
    x = torch.zeros(T, B, 2)
    x[0, 0, 0] = x[2, 0, 0] = x[3, 1, 1] = 1
    net, seen = nn.Sequential(tracing(fires_at(0)), head(1, 2)), None
    seen = Activity(net)
    a = PSC(T, static=False)(x)
    assert a.ne(0).sum() > 3
    with seen.watch(a, current=False, tau_s=3.0):
        net(a)
    assert (seen.operations()["ac"], seen.operations()["mac"]) == (round(3 * 1 / B), 0)


def test_a_filtered_image_is_multiplied_once():
    net = nn.Sequential(tracing(fires_at(1, 0)), head(2, 5))
    seen, a = Activity(net), PSC(T, static=True)(torch.tensor([[1.0, 7.0]] * B))
    with seen.watch(a, current=True, tau_s=3.0):
        net(a)
    spikes = round(seen.rates()["0"] * 2 * T)
    assert spikes > 0
    assert (seen.operations()["mac"], seen.operations()["ac"]) == (2 * 2, spikes * 5)


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_a_sequence_in_chunks_counts_as_the_whole(chunk, trace):
    """Traces do not begin at rest in the second chunk, recurrent weights see the last step of the first."""
    layer = fires_at(1, 0.5, 0.26)
    layer.recurrent = nn.Linear(3, 3, bias=False)
    nn.init.zeros_(layer.recurrent.weight)
    between = fires_at(0)
    nn.init.constant_(between.synapse.weight, 0.9)
    first, second = (tracing(layer), tracing(between)) if trace else (layer, between)
    net = nn.Sequential(first, nn.Linear(3, 2, bias=False), second, head(1, 4))
    nn.init.constant_(net[1].weight, 0.4)
    whole, pieces = watched(net, constant(), current=True), Activity(net)
    x = constant()
    with pieces.watch(x, current=True), carry(net):
        for part in x.split(chunk):
            net(part)
    assert pieces.rates() == whole.rates() and pieces.rates()["0"] > 0.5
    assert pieces.silent() == whole.silent() and pieces.samples == whole.samples
    assert pieces.operations() == whole.operations()


@pytest.mark.parametrize("layout", ["dense", "image", "channels_last", "expanded", "sliced"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_sums_over_time_and_samples(layout, dtype):
    x = torch.randint(-1, 3, (5, 7, 3, 4, 6)).to(dtype)
    match layout:
        case "dense":
            x = x.flatten(2)
        case "channels_last":
            x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (5, 7))
        case "expanded":
            x = x[0].expand(5, *x.shape[1:])
        case "sliced":
            x = x[:-1, :, :, 1:]
    for found, expected in ((total(x), x), (active(x, block=20), x.ne(0))):
        assert found.dtype == torch.float32
        assert torch.equal(found, expected.sum((0, 1), dtype=torch.float32))


# --- operations of convolutions

CONVOLUTIONS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3},
    {"kernel_size": 5, "padding": 2, "stride": 2},
    {"kernel_size": 3, "stride": 2},
    {"kernel_size": 2, "stride": 3},
    {"kernel_size": (1, 3), "padding": (0, 1)},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": 3, "padding": 1, "groups": 2},
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": 4, "padding": "same"},
    {"kernel_size": 3, "padding": "valid"},
]


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_fan_out_counts_what_an_input_reaches(options):
    convolution = nn.Conv2d(2, 4, bias=False, **options)
    nn.init.ones_(convolution.weight)
    x = torch.ones(1, 2, 7, 6, requires_grad=True)
    convolution(x).sum().backward()  # with weights of one, the gradient counts outgoing connections
    fan_out = fan_out_of(convolution, x.detach().unsqueeze(0))
    assert fan_out is not None and x.grad is not None
    torch.testing.assert_close(fan_out.expand(2, 7, 6), x.grad[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
        {"kernel_size": 5, "stride": 3, "padding": 2, "output_padding": (0, 2)},
        {"kernel_size": (3, 2), "dilation": 2, "groups": 2},
    ],
    ids=str,
)
def test_fan_out_of_a_transposed_convolution(options):
    convolution = nn.ConvTranspose2d(2, 4, bias=False, **options)
    nn.init.ones_(convolution.weight)
    x = torch.ones(1, 2, 7, 6, requires_grad=True)
    convolution(x).sum().backward()
    fan_out = fan_out_of(convolution, x.detach().unsqueeze(0))
    assert fan_out is not None and x.grad is not None
    torch.testing.assert_close(fan_out.expand(2, 7, 6), x.grad[0], rtol=0, atol=0)


def test_layers_of_a_loop_are_counted_at_every_step():
    """A dense population that feeds itself through 3x3 weights: every spike but those of the last step."""
    neuron = lambda channels: IF(ATan())  # noqa: E731
    net = FeedbackSNN(neuron, lambda c: None, head, (2,), 5, spec=3)
    nn.init.ones_(net.input.synapse.weight)
    x = torch.rand(B, 2, generator=torch.Generator().manual_seed(0)).expand(T, B, 2)
    activity = watched(net, x, current=True)
    spikes, _ = watch_spikes(net, x, 10)
    fired = spikes["body.0"]
    assert fired.shape == (T, B, 3) and fired.any() and not fired.all()
    assert activity.rates() == {"body.0": pytest.approx(fired.mean().item())}
    operations = activity.operations()
    assert operations["mac"] == 2 * 3, "a constant input once"
    assert operations["ac"] == round((fired.sum() * 5 + fired[:-1].sum() * 3).item() / B)


def test_fan_out_of_connections_that_exist():
    known = torch.tensor([2.0, 0.0, 1.0])
    synapse = nn.Linear(3, 3)
    assert fan_out_of(synapse, torch.zeros(1, 1, 3)) == 3
    synapse.fan_out = known
    assert fan_out_of(synapse, torch.zeros(1, 1, 3)) is known


def test_fan_out_at_the_border_of_an_image():
    fan_out = fan_out_of(nn.Conv2d(1, 10, 3, padding=1), torch.zeros(1, 1, 1, 3, 3))
    assert fan_out is not None
    assert fan_out[0].tolist() == [[40, 60, 40], [60, 90, 60], [40, 60, 40]]


def test_what_has_no_weights_has_no_operations():
    assert fan_out_of(nn.Identity(), torch.zeros(1, 1, 3)) is None
    assert fan_out_of(None, torch.zeros(1, 1, 3)) is None


def test_operations_of_a_conv_net():
    """Image 4x4 of ones, 1C1 that copies it (all neurons fire), pool to 2x2, 3 channels of 3x3 with padding, dense."""
    copy = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(copy.weight)
    spread = nn.Conv2d(1, 3, 3, padding=1, bias=False)
    nn.init.ones_(spread.weight)
    net = nn.Sequential(
        Layer(copy, None, IF(ATan())),
        Pool("max", 2),
        Layer(spread, None, IF(ATan())),
        nn.Flatten(2),
        head(12, 10),
    )
    x = torch.ones(1, 4, 4).expand(B, 1, 4, 4).expand(T, B, 1, 4, 4)
    seen = watched(net, x, current=True)
    assert seen.rates() == {"0": 1.0, "2": 1.0}
    ops = seen.operations()
    assert ops["mac"] == 16
    # each of the 2x2 pooled places reaches all 2x2 places of 3 channels; then 12 neurons reach 10 classes
    assert ops["ac"] == T * (4 * 4 * 3 + 12 * 10)
    assert ops["ann_mac"] == 16 + 4 * 4 * 3 + 12 * 10


def test_a_tie_after_a_step_counts_as_it_does_in_the_end():
    """One sample whose label shares the best score after one step, is best alone after two, and not after three."""
    steps = torch.tensor([[[1.0, 1.0, 0.0]], [[2.0, 1.0, 0.0]], [[2.0, 3.0, 0.0]]])
    y = torch.tensor([0])
    assert Tally(3, ties="wrong").place(steps, y).tolist() == [[1], [0], [1]]
    assert Tally(3).place(steps, y).tolist() == [[0], [0], [1]]
    assert Tally(3).place(steps, y + 1).tolist() == [[1], [1], [0]]


@pytest.mark.parametrize("ties", ["first", "wrong"])
def test_places_are_those_of_a_stable_sort(ties):
    """Scores of few values, so that many are equal."""
    scores, y = torch.randint(0, 4, (200, 12)).float(), torch.randint(0, 12, (200,))
    place = Tally(12, ties=ties).place(scores, y)
    for row, label, found in zip(scores, y, place, strict=True):
        order = row.sort(descending=True, stable=True).indices.tolist()
        last = max(k for k, c in enumerate(order) if row[c] == row[label])
        assert found == (last if ties == "wrong" else order.index(label))


@pytest.mark.parametrize("ties", ["first", "wrong"])
def test_a_score_of_nan_is_never_right(ties):
    scores = torch.tensor([[float("nan"), 1.0, 2.0], [float("nan"), 3.0, 2.0]])
    assert (Tally(3, ties=ties).place(scores, torch.tensor([0, 1])) > 0).all()


def test_a_tally_that_is_read_between_batches_is_the_same_to_the_bit():
    """A stopped run reads it for its checkpoint, wherever it is."""
    whole, read = Tally(10), Tally(10)
    for k in range(1, 80):
        loss, scores, y = torch.rand(()), torch.randn(k, 10), torch.randint(0, 10, (k,))
        whole.update(loss, scores, y)
        read.update(loss, scores, y)
        if k % 7 == 0:
            kept = read.sums
            read = Tally(10)
            read.sums = kept
    assert whole.sums is not None and torch.equal(whole.sums, read.sums)
    assert whole.sums[0] == sum(range(1, 80))


# --- spike times


def timed(weight: list[list[float]]) -> Layer:
    synapse = nn.Linear(len(weight[0]), len(weight), bias=False)
    synapse.weight.data = torch.tensor(weight)
    return Layer(synapse, None, RelPSP())


def test_a_time_is_one_spike_and_infinity_none():
    """A time of 0 is a spike, too: zeros are not silence here."""
    net = nn.Sequential(timed([[1.0, 1.0], [1.0, -2.0], [-1.0, 0.0]]), timed([[1.0, 1.0, 1.0]]))
    x = torch.tensor([[[0.0, float("inf")], [0.0, 0.5], [float("inf"), float("inf")]]])
    activity = Activity(net)
    with activity.watch(x, current=False, times=True):
        out = net(x)
    assert out.isfinite().flatten().tolist() == [True, True, False]
    # first layer: neurons 0 and 1, then 0 alone (1 falls before it reaches 1), then none
    assert {k: v.tolist() for k, v in activity.fired.items()} == {"0": [2, 1, 0], "1": [2]}
    assert activity.rates() == pytest.approx({"0": 3 / 9, "1": 2 / 3})
    assert activity.silent() == pytest.approx({"0": 1 / 3, "1": 0})
    assert activity.rate() == pytest.approx(5 / 12) and activity.output == "1"
    counted = activity.operations()
    assert counted["mac"] == 0 and counted["ac"] == round((3 * 3 + 3) / 3)
    seen, _ = watch_spikes(net, x, 10)
    assert seen["0"].tolist() == [[[1, 1, 0], [1, 0, 0], [0, 0, 0]]]
