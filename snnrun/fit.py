"""Which parts fit together: every part states what it is (traits) and what others must be (needs)."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from snnrun.config import GROUPS, Choices
from snnrun.source import Definition, definition

# the one table of words
TRAITS = {
    "adaptive": "its threshold adapts to its own spikes",
    "clamped_rate": "gives out spikes as large as its threshold, whose rate is a clamp of its input's",
    "chain": "every layer reads the one before it, and no other",
    "convolutional": "made of convolutions",
    "current": "feeds real-valued input",
    "dense": "a chain of fully connected layers",
    "events": "recordings of an event sensor, with a time axis",
    "feedback": "a chain of populations, the last of which may feed the first",
    "feedforward": "no layer feeds itself",
    "fixed_decay": "its state is a potential, of which a silent step leaves a share that is not learned",
    "graded": "its spikes differ in size",
    "hard_reset": "a spike sets the potential to a fixed value",
    "input_spikes": "turns the input into spikes",
    "input_times": "turns the input into spike times",
    "input_trace": "filters the input as a synapse filters spikes",
    "integrating": "its potential is the sum of its input less what its spikes take",
    "intensity": "values between 0 and 1",
    "leaky": "the potential decays",
    "loss_of_times": "compares spike times",
    "passes_times": "spike times pass from layer to layer: nothing is added up or averaged in between",
    "potential": "gives out its potential and never fires",
    "rate_readout": "a linear map of the rate of the last neurons",
    "recurrent": "some layers feed themselves",
    "settling": "its rate settles at its mean current, cut at 0 and 1",
    "refractory": "it is silent for some steps after a spike",
    "signed_spikes": "gives out spikes of either sign, times an amplitude",
    "soft_reset": "a spike subtracts the threshold",
    "spatial": "samples are images (C, H, W)",
    "spike_times": "gives out the time of its only spike",
    "spikes": "gives out spikes",
    "spiking_output": "the head fires",
    "static": "samples without a time axis",
    "stepped": "defined by a step in time",
    "surrogate": "a surrogate derivative",
    "time_output": "the head gives out spike times",
    "trace": "gives out a filter of its spikes",
    "trace_output": "the head fires and gives out a filter of its spikes",
    "unit_reset": "a spike subtracts 1",
}


def part(cfg: Mapping[str, Any], group: str) -> tuple[Definition, dict[str, Any]] | None:
    """The definition and the values of the part in `group`; None where there is none."""
    node = cfg.get(group)
    target = node.get("_target_") if isinstance(node, Mapping) else None
    known = definition(target) if isinstance(target, str) else None
    return (known, dict(node)) if known and node else None


def traits(cfg: Mapping[str, Any]) -> frozenset[str]:
    """What the chosen parts are, taken together."""
    return frozenset().union(
        *(p[0].words("traits", p[1]) for group in GROUPS if (p := part(cfg, group)))
    )


def misfits(cfg: DictConfig, choices: Choices, chosen: Mapping[str, Any]) -> list[str]:
    """One message for every word that a chosen part needs and no chosen part has.

    **Arguments:**

    - `cfg`: a composed configuration.
    - `choices`: where options that would fit are looked for.
    - `chosen`: the option of every group.
    """
    messages = []
    for group, word in lacking(cfg):
        lines = [f"{group}={chosen.get(group)} needs {word}, which none of the chosen parts has."]
        lines += [f"  {where}   (now {chosen.get(g)})" for g, where in having(word, choices)]
        messages.append("\n".join(lines))
    return messages


def lacking(cfg: DictConfig) -> list[tuple[str, str]]:
    """Group and word, for every word that the chosen part of a group needs and no chosen part has."""
    content = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(content, dict)
    plain = {str(key): value for key, value in content.items()}
    present = traits(plain)
    return [
        (group, word)
        for group in GROUPS
        if (found := part(plain, group))
        for word in sorted(found[0].words("needs", found[1]) - present)
    ]


def ignored(cfg: DictConfig, chosen: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """One warning for every group or setting that the request sets, or switches on, and no chosen part uses.

    **Arguments:**

    - `cfg`: a composed configuration, not resolved.
    - `chosen`: the option of every group.
    - `overrides`: what was asked for.
    """
    content = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(content, dict)
    text = str({key: value for key, value in content.items() if key != "surrogate"})
    by = {"surrogate": "neuron"} if "${surrogate}" not in text else {}
    for group in GROUPS:
        found = part({str(k): v for k, v in content.items()}, group)
        by |= (
            {name: group for name in sorted(found[0].literals.get("ignores", ()))} if found else {}
        )
    asked = {override.lstrip("+").partition("=")[0].partition(".")[0] for override in overrides}
    now = {**{name: str(content[name]).lower() for name in by if content.get(name)}, **chosen}
    return [
        f"warning: {name}={now[name]} has no effect: {owner}={chosen.get(owner)} does not use it."
        for name, owner in by.items()
        if name in asked and name in now
    ]


def having(word: str, choices: Choices) -> list[tuple[str, str]]:
    """The groups and, as text, the options that have a trait; where it hangs on a setting, with that."""
    rows = []
    for group in GROUPS:
        names = []
        for option in choices.options(group) if group in choices.groups else []:
            values = choices.load(group, option)
            known = (
                definition(values["_target_"]) if isinstance(values.get("_target_"), str) else None
            )
            if known is None:
                continue
            if word in known.words("traits", values):
                names.append(option)
                continue
            setting = next(
                (k for k, words in known.literals.get("traits_if", {}).items() if word in words),
                None,
            )
            if setting:
                names.append(f"{option} with {group}.{setting[0]}={str(setting[1]).lower()}")
        if names:
            rows.append((group, f"{group}: {', '.join(names)}"))
    return rows
