"""Starting runs: new ones, stopped ones, the same again."""

import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from snnrun import ranks
from snnrun.check import complain, composed, request, searchpath, without_hydra
from snnrun.config import (
    CONF,
    FILLED,
    GROUPS,
    BadRequest,
    Choices,
    cannot_write,
    claim,
    foreign,
    group_defaults,
    parse,
    quoted,
)
from snnrun.failure import caught
from snnrun.lock import Locked, lock, unlock, unlock_all
from snnrun.whole import whole

if TYPE_CHECKING:
    from snnrun.run import Run

log = logging.getLogger("snnrun")


def train(words: list[str]) -> int:
    """No verb: train one configuration, or with -m several."""
    import hydra
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.error = refuse  # pyright: ignore[reportAttributeAccessIssue]
    args = parser.parse_intermixed_args(words)
    overrides: list[str] = args.overrides
    choices = Choices([args.config_dir] if args.config_dir else [], searchpath(overrides))
    flags = [word for word in words if word not in overrides]
    looking = args.cfg or args.info or args.shell_completion or args.hydra_help
    if not looking and not args.multirun:
        cfg = composed(choices, overrides, warn=not ranks.rank())
        ranks.check(cfg.trainer)
        if ranks.rank():
            from snnrun.run import Run

            run = Run(without_hydra(cfg), Path(), group_defaults(cfg), overrides)
            return ranks.follow(run, resuming=False)
        folder = run_folder(cfg, overrides)
        overrides = [o for o in overrides if not o.startswith("hydra.run.dir=")] + [
            f"hydra.run.dir={quoted(folder)}"
        ]
    if args.multirun and not looking:
        from snnrun import sweep

        if ranks.world()[1] > 1:
            raise BadRequest(
                "-m: a sweep is one process, which starts those of its jobs; not srun or torchrun."
            )

        return sweep.start(choices, overrides, started)
    codes: list[int] = []

    def alone(cfg: DictConfig) -> None:
        codes.append(started(cfg))

    sys.argv = ["snnrun", *flags, *overrides]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(alone)()
    finally:
        unlock_all()
    return max(codes, default=0)


def started(cfg: DictConfig, *, resuming: bool = False) -> int:
    """Run what Hydra has prepared a directory for; returns the exit code."""
    from hydra.core.hydra_config import HydraConfig

    node = HydraConfig.get()
    parts = {str(k): v for k, v in node.runtime.choices.items() if not str(k).startswith("hydra/")}
    folder, overrides = Path(node.runtime.output_dir), list(node.overrides.task)
    return guarded(cfg, folder, parts, overrides, resuming=resuming)


def job(cfg: DictConfig) -> int:
    """A job of a sweep, in a process of its own: begun, or gone on with; returns the exit code."""
    from hydra._internal.callbacks import Callbacks
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
    from hydra.core.utils import run_job, setup_globals
    from hydra.types import HydraContext

    setup_globals()
    done = run_job(
        lambda plain: started(plain, resuming=True),
        cfg,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=HydraContext(ConfigLoaderImpl(ConfigSearchPathImpl()), Callbacks(cfg)),
    )
    return int(done.return_value)


def refuse(message: str) -> None:
    """What Hydra's parser of flags says, as a `BadRequest`."""
    raise BadRequest(f"{message[:1].upper()}{message[1:]}; `snnrun --help` lists what there is.")


def run_folder(cfg: DictConfig, overrides: list[str]) -> Path:
    """The directory of a new run, created and locked. One that the user named is taken unless it holds a run."""
    named = any(o.startswith("hydra.run.dir=") for o in overrides)
    return (taken if named else fresh)(Path(cfg.hydra.run.dir))


def fresh(folder: Path) -> Path:
    """A directory that was not there before, of this name or numbered, for this process alone."""
    folder = claim(folder)
    make_room(folder)
    keep_others_out(folder)
    return folder.resolve()


def taken(folder: Path) -> Path:
    """This very directory, for this process alone. Raises `BadRequest` if it holds a run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadRequest(cannot_write(folder, error)) from error
    make_room(folder)
    keep_others_out(folder)
    # what is written last, before the run begins
    words = folder / ".hydra" / "overrides.yaml"
    if words.exists() and words.stat().st_size:
        unlock(folder)
        raise BadRequest(
            f"{folder} holds a run already. Go on with it: snnrun resume {folder}. Or choose another hydra.run.dir."
        )
    return folder.resolve()


def keep_others_out(folder: Path) -> None:
    """Lock the directory of a run. Raises `BadRequest` if another process runs there, or nothing can be written."""
    try:
        lock(folder)
    except Locked as error:
        raise BadRequest(str(error)) from error
    except OSError as error:
        raise BadRequest(cannot_write(folder, error)) from error


def make_room(folder: Path) -> None:
    """Raise `BadRequest` if a folder does not take the little that a run begins with; an empty folder then goes."""
    probe = folder / ".writable"
    try:
        probe.write_bytes(bytes(1 << 16))
        probe.unlink()
    except OSError as error:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
            folder.rmdir()
        raise BadRequest(cannot_write(folder, error)) from error


def resume(words: list[str]) -> int:
    """The verb: go on with a run that was stopped, or with a sweep; the end is the same as if it never had been."""
    folders = positional(words)
    if len(folders) == 1 and (Path(folders[0]) / "sweep.yaml").is_file():
        from snnrun import sweep

        choices, changes = request([w for w in words if w != folders[0]])
        return sweep.resume(Path(folders[0]), choices, changes, started)
    run, changes = stored(words, "resume")
    refuse_other_length(run, changes)
    if ranks.rank():
        return ranks.follow(run, resuming=True)
    if status(run.folder) == "completed":
        print(
            f"{run.folder} is complete: {run.folder / 'result.json'}. To run it again: snnrun rerun {run.folder}"
        )
        return 0
    if changes:
        keep_others_out(run.folder)
        run.overrides += [word for word in changes if word not in run.overrides]
        remember(run)
    return guarded(run.cfg, run.folder, run.parts, run.overrides, resuming=True)


def refuse_other_length(run: "Run", changes: list[str]) -> None:
    """Raise `BadRequest` if a run that has begun is to have another length, which its learning rate follows."""
    begun = (run.checkpoints / "last.ckpt").is_file()
    for word in changes:
        length = parse([word])[0].key_or_group in ("trainer.max_epochs", "trainer.max_steps")
        if length and begun and any(run.cfg.scheduler.get(key, 0) is None for key in FILLED):
            raise BadRequest(
                f"{word}: under scheduler={run.parts.get('scheduler')} the learning rate follows the length of the run,"
                f" of which a part is done. For another length: snnrun rerun {run.folder} {word}"
            )


def remember(run: "Run") -> None:
    """Write the `.hydra` folder of a run that Hydra did not start, or that has changed. Raises `BadRequest`."""
    hydra = run.folder / ".hydra"
    choices = OmegaConf.create({"hydra": {"runtime": {"choices": run.parts}}})
    try:
        hydra.mkdir(exist_ok=True)
        if (path := hydra / "hydra.yaml").exists():
            choices = OmegaConf.merge(OmegaConf.load(path), choices)
        contents = {"config": run.cfg, "hydra": choices, "overrides": run.overrides}
        for name, content in contents.items():
            with whole(hydra / f"{name}.yaml") as file:
                file.write(OmegaConf.to_yaml(OmegaConf.create(content)))
    except OSError as error:
        raise BadRequest(cannot_write(run.folder, error)) from error


def rerun(words: list[str]) -> int:
    """The verb: the same configuration, changed only as asked for, in a new directory.

    It is beside the old one, or where `paths.outputs` or `hydra.run.dir` say.
    """
    places = [w for w in words if w.startswith("hydra.run.dir=")]
    run, changes = stored([w for w in words if w not in places], "rerun")
    if ranks.rank():
        return ranks.follow(run, resuming=False)
    if places:
        run.folder = taken(place(run.cfg, places[-1]))
    else:
        moved = any(o.startswith("paths.outputs=") for o in changes)
        outputs = Path(run.cfg.paths.outputs) if moved else run.folder.parent
        name = "_".join(str(run.parts.get(group)) for group in ("model", "rule", "dataset"))
        run.folder = fresh(outputs / f"{timestamp()}_{name}")
    prepare(run)
    return guarded(run.cfg, run.folder, run.parts, [*run.overrides, *changes])


def place(cfg: DictConfig, word: str) -> Path:
    """The directory that `hydra.run.dir=...` names. Raises `BadRequest` for an interpolation of what is not there."""
    copy = cfg.copy()
    OmegaConf.set_struct(copy, False)
    copy.place = parse([word])[0].value()
    try:
        return Path(str(copy.place))
    except OmegaConfBaseException as error:
        raise BadRequest(f"{word}: {str(error).splitlines()[0]}") from error


def evaluate(words: list[str]) -> int:
    """The verb: test a checkpoint of a run, or the weights in a file with what the request builds."""
    wanted = {"ckpt": "best", "ckpt_format": "auto"}
    given = [w for w in words if w.partition("=")[0] in wanted]
    rest = [w for w in words if w not in given]
    wanted |= {key: value for key, _, value in (w.partition("=") for w in given)}
    name, fmt = wanted["ckpt"], wanted["ckpt_format"]
    alone = any(w.startswith("ckpt=") for w in given) and not positional(rest)
    run = unstored(rest) if alone else stored(rest, "eval")[0]
    checkpoint = Path(name)
    if name in ("best", "last") and not alone:
        checkpoint = run.checkpoints / f"{name}.ckpt"
        if name == "best" and not checkpoint.exists():
            checkpoint = run.checkpoints / "last.ckpt"
    if not checkpoint.is_file():
        choice = "ckpt=FILE" if alone else "ckpt=best, ckpt=last or ckpt=FILE"
        raise BadRequest(f"There is no checkpoint {checkpoint}. Name one with {choice}.")

    def job() -> int:
        import json

        from snnrun.run import evaluate, quiet

        quiet()
        outcome = evaluate(run, checkpoint, fmt, bar=sys.stdout.isatty())  # pyright: ignore[reportArgumentType]
        print(json.dumps(outcome, indent=1))
        return 0

    return caught(job)


def positional(words: list[str]) -> list[str]:
    """The words that are neither settings nor flags nor what follows a flag; the directory of a run may be `seed=1`."""
    after_flag = {words[i + 1] for i, w in enumerate(words[:-1]) if w in ("--config-dir", "-cd")}

    def is_folder(word: str) -> bool:
        return (Path(word) / ".hydra").is_dir() or (Path(word) / "sweep.yaml").is_file()

    named = [w for w in words if not w.startswith("-") and ("=" not in w or is_folder(w))]
    return [w for w in named if w not in after_flag] or [
        w for w in named if (Path(w) / ".hydra").exists()
    ]


def unstored(words: list[str]) -> "Run":
    """A run that has no directory: what a request builds. Nothing is written."""
    choices, overrides = request(words)
    cfg = composed(choices, overrides)
    from snnrun.run import Run

    return Run(without_hydra(cfg), Path(), group_defaults(cfg), overrides)


def stored(words: list[str], verb: str) -> "tuple[Run, list[str]]":
    """The run that a directory holds, with changes applied; nothing in it is executed. Raises `BadRequest`."""
    folders = positional(words)
    if len(folders) != 1:
        raise BadRequest(
            f"Usage: snnrun {verb} RUN [key=value ...], RUN being the directory of one run."
        )
    folder = Path(folders[0]).resolve()
    choices, overrides = request([w for w in words if w != folders[0]])
    changes = [o for o in overrides if not o.startswith("hydra.searchpath")]
    path = folder / ".hydra" / "config.yaml"
    if not path.is_file():
        raise BadRequest(
            f"{folder} is not the directory of a run: there is no {path.relative_to(folder)} in it."
        )
    try:
        cfg = OmegaConf.load(path)
        words_then = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "overrides.yaml"))
        known = OmegaConf.load(folder / ".hydra" / "hydra.yaml").hydra.runtime.choices
        if not (isinstance(cfg, DictConfig) and cfg and isinstance(words_then, list)):
            raise ValueError(f"{path.name} holds no configuration")
    except (OSError, ValueError, AttributeError, OmegaConfBaseException, YAMLError) as error:
        raise BadRequest(f"{folder / '.hydra'} cannot be read: {error}") from error
    allowed = choices.targets()
    distrust(folder, cfg, allowed)
    parts = {str(k): v for k, v in known.items() if not str(k).startswith("hydra/")}
    words_then = [str(word) for word in words_then]
    parts |= exchange(choices, cfg, words_then, changes)
    apply(cfg, [o for o in changes if not chooses(choices, o)])
    # the output of eval is JSON, and processes but the first of a run write nothing
    set_hydra(choices, folder, parts, logs=verb != "eval" and not ranks.rank())
    distrust(folder, cfg, allowed)  # now that ${hydra:...} can be resolved, and with the changes
    complain(choices, cfg, parts)
    from snnrun.run import Run

    return Run(cfg, folder, parts, words_then), changes


def distrust(folder: Path, cfg: DictConfig, allowed: frozenset[str]) -> None:
    """Raise `BadRequest` if the configuration of a run names what is not allowed."""
    refused = foreign(cfg, allowed)
    if refused:
        raise BadRequest(
            f"{folder} wants to build {', '.join(refused)}, which is neither snnrun's own nor on your search path."
            " If you trust it, add the folder whose YAML names it: --config-dir DIR."
        )


def chooses(choices: Choices, word: str) -> bool:
    """Whether a word chooses an option of a group."""
    return choices.is_group(parse([word])[0])


def exchange(
    choices: Choices, cfg: DictConfig, words_then: list[str], changes: list[str]
) -> dict[str, Any]:
    """Put other options into a stored configuration, as the run's own request would have had them; returns which.

    Raises `BadRequest` for an option that chooses others or sets keys elsewhere: these are for a new run.
    """
    chosen = {parse([o])[0].key_or_group: o for o in changes if chooses(choices, o)}
    if not chosen:
        return {}
    kept = [w for w in words_then if parse([w])[0].key_or_group.partition(".")[0] not in chosen]
    composed = choices.compose([*kept, *chosen.values()])
    found: dict[str, Any] = {}
    for group, word in chosen.items():
        option = parse([word])[0].value()
        if group not in GROUPS or not choices.chooses_nothing(group, str(option)):
            raise BadRequest(
                f"{word}: this option of {group} sets more than {group}, so that it takes a new run."
            )
        with open_dict(cfg):
            cfg[group] = composed[group]
        found[group] = option
    return found


def apply(cfg: DictConfig, changes: list[str]) -> None:
    """Set keys of a stored configuration. Raises `BadRequest` for keys that it lacks."""
    OmegaConf.set_struct(cfg, True)
    for override in parse(changes):
        try:
            OmegaConf.update(
                cfg, override.key_or_group, override.value(), force_add=override.is_add()
            )
        except OmegaConfBaseException as error:
            raise BadRequest(f"{override.input_line}: {str(error).splitlines()[0]}") from error


def set_hydra(choices: Choices, folder: Path, parts: dict[str, Any], *, logs: bool = True) -> None:
    """Give `${hydra:...}` its values and logging its files, from snnrun's own defaults, for a run that exists."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import configure_log

    cfg = choices.compose([])
    with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
        cfg.hydra.runtime.output_dir = str(folder)
        cfg.hydra.runtime.choices.update(parts)
    HydraConfig.instance().set_config(cfg)
    if not logs:
        return
    try:
        configure_log(cfg.hydra.job_logging, False)
    except (OSError, ValueError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(cause, OSError):
            raise BadRequest(cannot_write(folder, cause)) from error
        raise


def prepare(run: "Run") -> None:
    """Write the `.hydra` folder of a run that Hydra did not start, and let `${hydra:...}` be of that run."""
    remember(run)
    set_hydra(Choices(), run.folder, run.parts)


def timestamp() -> str:
    """Now, as part of a directory's name."""
    from datetime import datetime

    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def status(folder: Path) -> str | None:
    """The status that a run's `result.json` states; None if there is none."""
    import json

    try:
        return json.loads((folder / "result.json").read_text())["status"]
    except (OSError, ValueError, KeyError):
        return None


def guarded(
    cfg: DictConfig,
    folder: Path,
    parts: dict[str, Any],
    overrides: list[str],
    *,
    resuming: bool = False,
) -> int:
    """Run, whatever happens write `result.json`, and return the exit code."""
    from snnrun import result
    from snnrun.checkpoint import PREVIOUS
    from snnrun.run import Run, quiet, train

    try:
        keep_others_out(folder)
    except BadRequest as error:
        print(error, file=sys.stderr)
        return 2
    quiet()
    run = Run(cfg, folder, parts, overrides)

    def job() -> int:
        with ranks.Others(run, resuming=resuming, lost=lambda error: fail("failed", error)):
            outcome = train(run, bar=sys.stdout.isatty(), resume=resuming)
        result.write(outcome, folder)
        (run.checkpoints / PREVIOUS).unlink(missing_ok=True)
        for line in result.footer(outcome, folder):
            log.info(line)
        return 0

    def fail(status: str, error: str | None) -> None:
        try:
            result.write(result.unfinished(run, status, error), folder)
        except OSError as problem:
            print(cannot_write(folder, problem), file=sys.stderr)

    code = caught(job, fail, folder)
    if wandb := sys.modules.get(
        "wandb"
    ):  # or the next run of a sweep would be logged into this one
        wandb.finish(code)
    unlock(folder)
    return code
