"""Trains one reward model on files of pairs: a Hugging Face checkpoint in, a Hugging Face checkpoint out.

    python -m rewardscale.train --config=train.py --config.model=DIR --config.data=pairs.jsonl
    python -m rewardscale.train --config=train.py:lora --config.model=DIR --config.data=a.jsonl.gz,b.parquet \\
        --config.validation=held_out.jsonl --workdir=runs/mine
    python -m rewardscale.train --config=train.py --config.model=d6 --config.tokenizer=DIR --config.data=...
    python -m rewardscale.train --config=skywork_v2.py:qwen3-8b --dry_run                # what it would take

A line of a file is {"prompt": "...", "chosen": "...", "rejected": "..."}; the answers, and the prompt, may be lists of
chat messages as in public preference sets. A model that has a reward head keeps it and its conventions; a language
model gets a fresh head. Any value of the config can be overridden, and a wrong key is answered with the nearest right
one: --config.recipe.learning_rate=1e-5 --config.runtime.mesh=2,2,2.

--config.benchmarks=rm-bench,llmbar --data_dir=DIR evaluates the trained model as rewardscale.evaluate does, into
evaluation/; benchmarks can be added to a training that is finished.

Everything lands in --workdir (default runs/<name>; s3:// and gs:// too: docs/storage.md); the trained model in its
folder model/, ready for AutoModelForSequenceClassification, for `rewardscale.score` and `rewardscale.serve`. Kill it
whenever you like; the same command goes on where it stopped. Exit codes: 0 done, 2 bad input, 75 the machine's fault
(listed at the end of --help), 130 interrupted.

On several hosts start the same command on each, with one shared --workdir: TPU slices and Slurm steps are found by
themselves, others are told by --coordinator=HOST:PORT --num_processes=N --process_id=I (docs/hosts.md).
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from rewardscale import exits
from rewardscale.cli import add_host_flags, on_hosts, workdir_of
from rewardscale.config import DATA_VARIABLE, ConfigError, TrainConfig
from rewardscale.evaluation.eval_tables import terminal
from rewardscale.remote import origin
from rewardscale.sweeps import configfile

if TYPE_CHECKING:
    from rewardscale.training.finetune import Outcome


def main(arguments: list[str] | None = None) -> int:
    """Parses flags, trains, reports. Returns the exit code."""
    options, overrides = _parse(sys.argv[1:] if arguments is None else arguments)
    return on_hosts(options, lambda: _train(options, overrides), kept="nothing written so far is lost")


def _train(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    from rewardscale import mesh
    from rewardscale.training import finetune
    from rewardscale.training.checkpoint import Interrupted
    from rewardscale.training.compilation import use_cache

    if options.profile_steps:
        overrides = overrides | {"runtime.profile_steps": options.profile_steps.replace(":", ",")}
    config, _ = configfile.load(options.config, overrides, kind=TrainConfig)
    if options.dry_run or options.lengths:
        return _dry_run(config, options)
    use_cache()
    writes = mesh.host_zero()
    workdir = workdir_of(options.workdir or Path("runs") / config.name)
    data_dir = options.data_dir or (Path(os.environ[DATA_VARIABLE]) if DATA_VARIABLE in os.environ else None)
    bars: dict[str, tqdm] = {}

    def progress(what: str, done: int, total: int) -> None:
        unit = {"training": " steps", "benchmarks": " characters"}.get(what, " rows")
        bar = bars.setdefault(
            what,
            tqdm(
                total=total,
                desc=what,
                unit=unit,
                unit_scale=what == "benchmarks",
                delay=0.5,
                disable=not writes,
            ),
        )
        bar.update(done - bar.n)

    try:
        outcome = finetune.finetune(config, workdir, data_dir=data_dir, progress=progress)
    except Interrupted as reason:
        if writes:
            print(f"{reason}; the same command goes on where this one stopped", file=sys.stderr)
        return exits.INTERRUPTED
    finally:
        for bar in bars.values():
            bar.close()
    if writes:
        print(closing(outcome, workdir))
    return 0


def _dry_run(config: TrainConfig, options: argparse.Namespace) -> int:
    from rewardscale.training import dry_run

    if not options.dry_run:
        raise ConfigError(f"--lengths={options.lengths} is for --dry_run; a training reads its own data")
    sizes = dry_run.measured_sizes(config, options.lengths) if options.lengths else None
    print(dry_run.page(config, dry_run.estimate(config, sizes), spec=options.config))
    return 0


def closing(outcome: "Outcome", workdir: Path) -> str:
    """Counts that add up, scores, and the model's path last."""
    record, kept = outcome.record, outcome.read - outcome.refused
    lines = [f"{outcome.read:,} items read: {kept:,} pairs, {outcome.refused:,} refused"]
    if outcome.refused:
        lines[0] += f" (reasons: {workdir / 'data' / 'refused.jsonl'})"
    lines.append(
        f"{record['pairs_seen']:,} pairs trained on in {record['steps']:,} steps "
        f"({record['dropped_too_long']:,} too long "
        f"and left out, {record['truncated']:,} truncated), {record['tokens_per_second']:,.0f} tokens/s"
    )
    if outcome.validation:
        seen = outcome.validation
        lines.append(
            f"validation: {seen['pairs']:,} pairs, accuracy {seen['accuracy']:.4f}, log-loss {seen['loss']:.4f} nats"
        )
    if outcome.evaluation:
        page = workdir / "evaluation" / "eval.html"
        lines += [terminal(outcome.evaluation), f"report  {origin.shown(page, workdir)}"]
    lines.append(f"model   {origin.shown(outcome.directory, workdir)}")
    return "\n".join(lines)


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    parser = argparse.ArgumentParser(
        prog="python -m rewardscale.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False, epilog=exits.AGAIN_HELP,
    )  # fmt: skip
    parser.add_argument(
        "--config",
        default="train.py",
        metavar="FILE[:VARIANT]",
        help="a config file; a bare name is looked for in configs/",
    )
    parser.add_argument(
        "--workdir",
        metavar="DIR|URL",
        help="folder for everything, or s3://..., gs://... (default: runs/<config.name>)",
    )
    parser.add_argument(
        "--data_dir", type=Path, metavar="DIR",
        help=f"folder of the benchmarks' data (default: the environment variable {DATA_VARIABLE}, or the hub)",
    )  # fmt: skip
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print pairs, tokens, steps, FLOPs and hours by config.assumed; read and train nothing",
    )
    parser.add_argument(
        "--profile_steps",
        metavar="FIRST:LAST",
        help="trace the steps FIRST to LAST - 1 into the run's folder, for XProf or ui.perfetto.dev (10:13)",
    )
    parser.add_argument(
        "--lengths",
        type=Path,
        metavar="FOLDER",
        help="with --dry_run: a tokenised corpus (corpus/, or one of its views/) whose lengths replace assumed ones",
    )
    add_host_flags(parser)
    return configfile.parse_arguments(parser, arguments, example="--config.recipe.learning_rate=1e-5")


if __name__ == "__main__":
    sys.exit(main())
