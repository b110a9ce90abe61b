"""Evaluates reward models on benchmarks: one pass over all texts, then exact formulas, intervals and controls.

    python -m rewardscale.evaluate --model=runs/train/model --benchmarks=all --data_dir=DIR
    python -m rewardscale.evaluate --model=A --model=B --benchmarks=rm-bench,llmbar,my_pairs.jsonl --data_dir=DIR
    python -m rewardscale.evaluate --model=Skywork/Some-Model --revision=<commit> --dtype=bfloat16 --max_length=16384
    python -m rewardscale.evaluate --workdir=runs/eval/mine --benchmarks=all --data_dir=DIR    # new numbers, no model
    python -m rewardscale.evaluate --model=A --benchmarks=all --data_dir=DIR --dry_run         # what would be scored

A model is a folder that rewardscale.train wrote, any Hugging Face sequence-classification reward model of a supported
architecture (Llama, Qwen3), or control:length or control:random, which score by characters or by lot. Benchmarks are
the seven (rewardbench, rewardbench2, ppe-preference, ppe-correctness, rmb, rm-bench, judgebench), plain sets (llmbar,
hhh, hh-rlhf, ...), and any file of comparisons by its path. DIR holds a folder of each in the layout of its repository
or hub data set; without --data_dir they come from the hub.

Each different (prompt, response) is scored once, however many benchmarks have it, and kept in rewards.parquet: the
same command scores nothing twice, one with more benchmarks scores the new texts alone, and numbers are computed anew
from what is saved. Kill it whenever you like; the same command goes on where it stopped and writes the same bytes.

Everything lands in --workdir (default runs/eval/<model>): rewards.parquet, eval.json, eval.md, eval.html, figures/.
Beside every score stand its 95 % interval, n, ties, truncations, what a length-only model and chance would get, and
how much of the official set is there. Two or more models are compared on the same items.

Exit codes: 0 all scored, 3 some texts could not be scored (the reasons are in the report), 2 bad input,
130 interrupted.
"""

import argparse
import os
import sys
from pathlib import Path

from tqdm import tqdm

from rewardscale import exits
from rewardscale.cli import exit_code
from rewardscale.config import DATA_VARIABLE, ConfigError
from rewardscale.evaluation.flags import add_scoring_flags

SOME_UNSCORED = 3
_SETTINGS = ("mesh", "dtype", "max_length", "too_long", "allow_special_text", "batch_tokens", "chunk_texts")


def main(arguments: list[str] | None = None) -> int:
    """Parses flags, evaluates, reports. Returns the exit code."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    return exit_code(lambda: _evaluate(options), kept="nothing committed so far is lost")


def _evaluate(options: argparse.Namespace) -> int:
    from rewardscale.evaluation import benchmark_run, eval_tables
    from rewardscale.evaluation.benchmarks import registry
    from rewardscale.evaluation.one_pass import Settings

    if not options.model and options.workdir is None:
        raise ConfigError("name a --model=DIR, or the --workdir of an earlier evaluation")
    chosen = {name: getattr(options, name) for name in (*_SETTINGS, "revision", "overwrite")}
    settings = [Settings(model=one, **chosen) for one in options.model]
    models, workdir = (
        benchmark_run.place(settings, options.workdir, Path("runs") / "eval")
        if settings
        else (benchmark_run.finished(options.workdir), options.workdir)
    )
    benchmarks, absent = registry.load_all(options.benchmarks, _data_dir(options))
    if options.dry_run:
        print(benchmark_run.dry_run(models, benchmarks, absent))
        return 0
    from rewardscale.training.compilation import use_cache  # brings jax, which a dry run does not need

    use_cache()
    bars: dict[str, tqdm] = {}

    def progress(model: str, done: int, total: int, beside: str) -> None:
        bar = bars.setdefault(
            model, tqdm(total=total, desc=model, unit=" characters", unit_scale=True, delay=0.5)
        )
        bar.update(done - bar.n)
        bar.set_postfix_str(beside, refresh=False)
        if done == total:
            bar.close()

    try:
        record = benchmark_run.evaluate(
            models, benchmarks, workdir, absent=absent, corpus=options.corpus, progress=progress
        )
    finally:
        for bar in bars.values():
            bar.close()
    print(eval_tables.terminal(record))
    for line in (
        benchmark_run.store_temperatures(models, record, options.calibrate) if options.calibrate else ()
    ):
        print(line)
    print(f"report  {workdir / 'eval.html'}")
    unscored = any(model["counts"]["scored"] < model["counts"]["texts"] for model in record["models"])
    return SOME_UNSCORED if unscored else 0


def _data_dir(options: argparse.Namespace) -> Path | None:
    if options.data_dir is not None or DATA_VARIABLE not in os.environ:
        return options.data_dir
    return Path(os.environ[DATA_VARIABLE])


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rewardscale.evaluate", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, epilog=exits.AGAIN_HELP,
    )  # fmt: skip
    parser.add_argument(
        "--model", action="append", default=[], metavar="DIR",
        help="a Hugging Face directory, a hub id, control:length or control:random; give it twice to compare two",
    )  # fmt: skip
    parser.add_argument(
        "--benchmarks", default="all", metavar="NAME,...",
        help="names, files of comparisons, or all that are there (all)",
    )  # fmt: skip
    parser.add_argument(
        "--data_dir", type=Path, metavar="DIR",
        help=f"folder of the benchmarks' data (default: the environment variable {DATA_VARIABLE}, or the hub)",
    )  # fmt: skip
    parser.add_argument(
        "--workdir", type=Path, metavar="DIR", help="folder for everything (runs/eval/<model>)"
    )
    parser.add_argument(
        "--corpus", type=Path, metavar="DIR", help="a corpus: report its 13-gram overlap with each benchmark"
    )  # fmt: skip
    parser.add_argument(
        "--calibrate", metavar="NAME", help="keep the temperature that fits this benchmark in each model's folder"
    )  # fmt: skip
    add_scoring_flags(parser, too_long="truncate_left_of_prompt")
    parser.add_argument(
        "--chunk_texts", type=int, default=2048, help="about how many rewards are committed together (2048)"
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print what would be scored, in texts and tokens; score nothing",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace rewards that another model or other settings gave"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
