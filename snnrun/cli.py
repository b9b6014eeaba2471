"""From the command line to a verb; torch and lightning are imported only where a network is built."""

import difflib
import gc
import os
import sys
from collections.abc import Callable, Sequence

HELP = """\
snnrun: experiments with directly trained spiking neural networks

  snnrun [group=option] [key=value] ...   train; the result is in a new directory under outputs/
  snnrun -m key=a,b ...                   train every combination, or what is missing of them
  snnrun list [GROUP] [--fits k=v ...]    the groups, or the options of one (that fit with others)
  snnrun show [group=option] [key=value]  what a part is: equation, arguments, file; or the whole configuration
  snnrun check [...] | check --all        compose, fit, types and a dry forward pass; --all: every experiment
  snnrun eval RUN [ckpt=best|last|FILE] [key=value] ...   test a finished run again, with changes
  snnrun eval ckpt=FILE [key=value] ...   test weights from a file, published ones too (ckpt_format=auto)
  snnrun resume RUN                       go on with a run that was stopped, or with a sweep
  snnrun rerun RUN [key=value] ...        the same configuration in a new directory
  snnrun paper list|run|compare [KEY]     published tables: what there is, run it, set ours beside it
  snnrun report DIR ... [out=FILE]         many runs as one table: Markdown, CSV, JSON or a page with pictures
  snnrun plot RUN                         learning curves and spike raster as PNG and SVG
  snnrun doctor                           versions, devices, data sets: what there is, and what to do about the rest
  snnrun new neuron|rule|model NAME       skeleton, YAML and test of a part of your own

examples
  snnrun                                                  a LIF network on handwritten digits, in seconds
  snnrun dataset=fashion_mnist model=mlp paths.data=DIR   (or set SNNRUN_DATA)
  snnrun neuron=plif surrogate=triangle seed=3
  snnrun dataset=nmnist model=convnet dataset.steps=10

flags
  -m, --multirun       run every combination of comma-separated values
  --config-dir DIR     a folder with configurations of your own
  --cfg job            print the composed configuration and stop
  --info searchpath    where configurations are looked for (also: defaults, config, plugins)
  -sc install=bash     print shell completion code: eval "$(snnrun -sc install=bash)"
  --version            print the version
"""


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point: exits with 0 (done), 1 (the run failed), 2 (the request was wrong) or 130 (interrupted)."""
    words = list(sys.argv[1:] if argv is None else argv)
    sys.path.insert(0, os.getcwd())  # a user's own parts
    try:
        sys.exit(_dispatch(words))
    finally:
        gc.freeze()  # or the interpreter searches all of torch for cycles as it ends, for a second or two


def _dispatch(words: list[str]) -> int:
    if words and words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if words == ["--version"]:
        from snnrun import __version__

        print(f"snnrun {__version__}")
        return 0
    if (
        len(words) == 2
        and words[0] in ("-sc", "--shell-completion")
        and words[1].startswith("query=")
    ):
        from snnrun import completion

        return completion.answer(list(VERBS))
    from snnrun.config import BadRequest

    try:
        if words and words[0] in VERBS:
            return VERBS[words[0]](words[1:])
        if words and "=" not in words[0] and words[0][:1] not in ("-", "~", "+"):
            near = difflib.get_close_matches(words[0], VERBS, n=3)
            hint = (
                f" Did you mean {' or '.join(near)}?" if near else f" Verbs are {', '.join(VERBS)}."
            )
            raise BadRequest(
                f"There is no verb {words[0]!r}.{hint} Settings are written key=value."
            )
        return _train(words)
    except BadRequest as error:
        print(error, file=sys.stderr)
        return 2
    except SyntaxError as error:  # in a part of the user's own
        print(f"{error.filename}, line {error.lineno}: {error.msg}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _train(words: list[str]) -> int:
    from snnrun import launch

    return launch.train(words)


def _list(words: list[str]) -> int:
    from snnrun import catalogue

    return catalogue.list_parts(words)


def _show(words: list[str]) -> int:
    from snnrun import catalogue

    return catalogue.show(words)


def _check(words: list[str]) -> int:
    from snnrun import check

    return check.check(words)


def _eval(words: list[str]) -> int:
    from snnrun import launch

    return launch.evaluate(words)


def _resume(words: list[str]) -> int:
    from snnrun import launch

    return launch.resume(words)


def _rerun(words: list[str]) -> int:
    from snnrun import launch

    return launch.rerun(words)


def _plot(words: list[str]) -> int:
    from snnrun.report import plot

    return plot.main(words)


def _report(words: list[str]) -> int:
    from snnrun.report import report

    return report.main(words)


def _paper(words: list[str]) -> int:
    from snnrun.report import paper

    return paper.main(words)


def _doctor(words: list[str]) -> int:
    from snnrun import doctor

    return doctor.main(words)


def _new(words: list[str]) -> int:
    from snnrun import scaffold

    return scaffold.new(words)


VERBS: dict[str, Callable[[list[str]], int]] = {
    "list": _list,
    "show": _show,
    "check": _check,
    "eval": _eval,
    "resume": _resume,
    "rerun": _rerun,
    "paper": _paper,
    "report": _report,
    "plot": _plot,
    "doctor": _doctor,
    "new": _new,
}
