import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnrun.dataset.base import CorruptData
from snnrun.dataset.binning import bin_events

SENSOR = (2, 3, 5)
STEPS = st.integers(1, 12)
BY = st.sampled_from(["time", "count"])


@st.composite
def recordings(draw, min_size=0):
    n = draw(st.integers(min_size, 40))
    time = st.integers(-1000, 1000) if draw(st.booleans()) else st.floats(-1, 1)
    columns = {"t": draw(st.lists(time, min_size=n, max_size=n))}
    for name, size in zip("pyx", SENSOR, strict=True):
        columns[name] = draw(st.lists(st.integers(0, size - 1), min_size=n, max_size=n))
    kind = float if any(isinstance(t, float) for t in columns["t"]) else int
    return {
        name: np.array(values, kind if name == "t" else int) for name, values in columns.items()
    }


def summed(events) -> np.ndarray:
    frame = np.zeros(SENSOR, int)
    for p, y, x in zip(events["p"], events["y"], events["x"], strict=True):
        frame[p, y, x] += 1
    return frame


@given(recordings(), STEPS, BY)
def test_every_event_is_counted_once(events, steps, by):
    frames = bin_events(events, sensor=SENSOR, steps=steps, by=by)
    assert frames.shape == (steps, *SENSOR)
    np.testing.assert_array_equal(frames.sum(0), summed(events))


@given(recordings(), STEPS, st.randoms())
def test_by_time_any_order_of_arrival_gives_the_same(events, steps, random):
    order = list(range(len(events["t"])))
    random.shuffle(order)
    other = {name: column[order] for name, column in events.items()}
    np.testing.assert_array_equal(
        bin_events(other, sensor=SENSOR, steps=steps),
        bin_events(events, sensor=SENSOR, steps=steps),
    )


@given(recordings(), STEPS, st.randoms())
def test_by_count_only_ties_depend_on_the_order_of_arrival(events, steps, random):
    events["t"] = np.arange(len(events["t"]))
    order = list(range(len(events["t"])))
    random.shuffle(order)
    other = {name: column[order] for name, column in events.items()}
    np.testing.assert_array_equal(
        bin_events(other, sensor=SENSOR, steps=steps, by="count"),
        bin_events(events, sensor=SENSOR, steps=steps, by="count"),
    )


@given(recordings(), STEPS)
def test_by_count_slices_have_equally_many_and_the_last_takes_the_rest(events, steps):
    per_bin = bin_events(events, sensor=SENSOR, steps=steps, by="count").reshape(steps, -1).sum(1)
    n = len(events["t"])
    assert per_bin.tolist() == [n // steps] * (steps - 1) + [n - (steps - 1) * (n // steps)]


@given(recordings(min_size=2), STEPS)
def test_by_time_follows_the_definition(events, steps):
    t = events["t"] = np.round(events["t"] * 1000).astype(int)
    first, last = int(t.min()), int(t.max())
    expected = np.zeros((steps, *SENSOR), int)
    for i in range(len(t)):
        k = (int(t[i]) - first) * steps // (last - first) if last > first else 0
        expected[min(k, steps - 1), events["p"][i], events["y"][i], events["x"][i]] += 1
    np.testing.assert_array_equal(bin_events(events, sensor=SENSOR, steps=steps), expected)


@given(recordings(), STEPS, st.integers(1, 500), st.sampled_from([None, -1000, 0]))
def test_windows_take_the_events_of_their_time_and_no_other(events, steps, window, start):
    t = events["t"] = np.round(events["t"] * 1000).astype(int)
    begin = start if start is not None else min(t, default=0)
    frames = bin_events(events, sensor=SENSOR, steps=steps, window=window, start=start)
    for k, frame in enumerate(frames):
        inside = (t >= begin + k * window) & (t < begin + (k + 1) * window)
        np.testing.assert_array_equal(
            frame, summed({name: c[inside] for name, c in events.items()})
        )


@given(recordings(), STEPS, BY)
def test_binary_is_one_where_there_was_any_event(events, steps, by):
    counts = bin_events(events, sensor=SENSOR, steps=steps, by=by)
    frames = bin_events(events, sensor=SENSOR, steps=steps, by=by, binary=True)
    np.testing.assert_array_equal(frames, counts > 0)


@pytest.mark.parametrize("options", [{"by": "time"}, {"by": "count"}, {"window": 3.0}])
@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.float32])
def test_an_empty_recording_gives_zeros(options, kind):
    empty = {"t": np.empty(0, kind), **{name: np.empty(0, int) for name in "pyx"}}
    frames = bin_events(empty, sensor=SENSOR, steps=4, **options)
    assert frames.shape == (4, *SENSOR) and frames.sum() == 0


@pytest.mark.parametrize(
    ("options", "k"), [({"by": "time"}, 0), ({"by": "count"}, 3), ({"window": 3.0}, 0)]
)
def test_one_event(options, k):
    event = {name: np.array([1]) for name in "tpyx"}
    frames = bin_events(event, sensor=SENSOR, steps=4, **options)
    assert np.argwhere(frames).tolist() == [[k, 1, 1, 1]]


def test_the_last_event_falls_into_the_last_bin():
    events = {"t": np.array([0, 1, 2, 3, 4]), "x": np.arange(5)}
    frames = bin_events(events, sensor=(5,), steps=2)
    assert frames.tolist() == [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]]


def test_large_counts_do_not_overflow():
    n = 70_000
    events = {"t": np.zeros(n, np.int64), "x": np.zeros(n, np.uint8)}
    assert bin_events(events, sensor=(300,), steps=3)[0, 0] == n


def test_times_of_today_in_microseconds_keep_their_order():
    t = np.uint64(1_790_000_000_000_000) + np.array([0, 1, 2, 3], np.uint64)
    frames = bin_events({"t": t, "x": np.arange(4)}, sensor=(4,), steps=4)
    np.testing.assert_array_equal(frames, np.eye(4))


def test_structured_arrays_are_events_too():
    events = np.zeros(3, [("x", int), ("y", int), ("t", int), ("p", int)])
    assert bin_events(events, sensor=SENSOR, steps=2).sum() == 3


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (
            {"t": [0, 1, 2], "x": [1, 5, 7]},
            "a.bin: x=5 of event 1 is beyond the sensor, which has x from 0 to 4 (2 of 3 events "
            "are).",
        ),
        (
            {"t": [0], "x": [-1]},
            "a.bin: x=-1 of event 0 is beyond the sensor, which has x from 0 to 4 (1 of 1 events "
            "are).",
        ),
        ({"t": [0.0, np.nan], "x": [0, 0]}, "a.bin: the time of event 1 is not finite."),
        ({"t": [0], "x": [np.inf]}, "a.bin: x of event 0 is not finite."),
        ({"t": [0, 1], "x": [0]}, "a.bin: 2 times but 1 addresses x."),
    ],
)
def test_bad_events_are_errors_that_name_the_file(events, message):
    with pytest.raises(CorruptData) as error:
        bin_events(
            {k: np.array(v) for k, v in events.items()}, sensor=(5,), steps=2, source="a.bin"
        )
    assert str(error.value) == message


def test_wrong_options():
    event = {"t": np.array([0]), "x": np.array([0])}
    with pytest.raises(ValueError) as error:
        bin_events(event, sensor=(1,), steps=1, by="number")  # pyright: ignore[reportArgumentType]
    assert str(error.value) == "dataset.binning must be time or count, got 'number'."
    with pytest.raises(ValueError) as error:
        bin_events(event, sensor=(1,), steps=1, by="count", window=3)
    assert str(error.value) == (
        "dataset.window is the duration of a bin, above 0 and with dataset.binning=time only; got "
        "3 with count."
    )
