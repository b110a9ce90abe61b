"""Scores a file of comparisons with a reward model: one record an item out, rewards as raw logits.

    python -m rewardscale.score --model=DIR --input=pairs.jsonl --output=rewards.jsonl
    python -m rewardscale.score --model=DIR --input=best_of_n.parquet --output=rewards.parquet \\
        --dtype=bfloat16 --max_length=4096 --too_long=truncate_left_of_prompt
    python -m rewardscale.score --model=Qwen/SomeRewardModel --revision=<commit> --input=... --output=...

DIR is a Hugging Face directory of a Llama or Qwen3 reward model (…ForSequenceClassification) with its tokenizer
and chat template. An item is a JSON object (a line of jsonl, a row of Parquet), in one of these forms:

    {"prompt": "Is tea warm?", "responses": ["Yes.", "No.", "Often."], "id": "t1"}
    {"prompt": [{"role": "user", "content": "Is tea warm?"}], "responses": ["Yes."], "tools": [...]}
    {"prompt": "Is tea warm?", "chosen": "Yes.", "rejected": "No."}
    {"chosen": [messages, the last of the assistant], "rejected": [messages, the last of the assistant]}

and its result, in the input's order, is

    {"index": 0, "id": "t1", "rewards": [1.5, -0.25, 0.75], "tokens": [40, 40, 41], "truncated": false, "error": null}

An item that cannot be scored (not JSON, empty response, too long, a special token written out, a reward that is
not finite, ...) has "error" instead of rewards, and stops no other. Rewards of a chosen and a rejected response come in
this order; the share of pairs with a strictly higher reward for the chosen one is printed at the end.

Kill it whenever you like: the same command goes on where it stopped (from --output.parts) and writes the same bytes.

exit code: 0 all items scored, 3 some refused (the output holds the rest), 2 bad input or settings,
130 interrupted. More: docs/scoring.md
"""

import argparse
import sys
from pathlib import Path

from rewardscale import exits
from rewardscale.cli import exit_code
from rewardscale.evaluation.flags import add_model_flags

SOME_REFUSED = 3


def main(arguments: list[str] | None = None) -> int:
    """Parses flags, scores the file, reports. Returns the exit code."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    return exit_code(lambda: _score(options), kept="nothing committed so far is lost")


def _score(options: argparse.Namespace) -> int:
    from rewardscale.evaluation import offline
    from rewardscale.training.compilation import use_cache

    use_cache()
    summary, seconds = offline.score_file(offline.Settings(**vars(options)))
    for error in summary.errors:
        print(f"refused: {error}", file=sys.stderr)
    if len(summary.errors) < summary.refused:
        print(f"refused: {summary.refused - len(summary.errors)} more", file=sys.stderr)
    print(
        f"read {summary.read:,} = scored {summary.scored:,} + refused {summary.refused:,} items "
        f"({summary.responses:,} responses, {summary.tokens:,} tokens, {summary.truncated:,} truncated)"
    )
    if summary.accuracy is not None:
        print(
            f"chosen > rejected in {summary.right:,} of {summary.pairs:,} pairs: accuracy {summary.accuracy:.4f} "
            f"({summary.ties:,} exact ties, counted as wrong)"
        )
    took = "had been done before" if seconds is None else f"took {seconds:,.1f} s, loading included"
    print(f"{options.output}: {took}")
    return SOME_REFUSED if summary.refused else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rewardscale.score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False, epilog=exits.AGAIN_HELP,
    )  # fmt: skip
    add_model_flags(parser)
    parser.add_argument("--input", required=True, type=Path, metavar="FILE", help=".jsonl or .parquet")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help=".jsonl or .parquet")
    parser.add_argument(
        "--chunk_items", type=int, default=1024, help="items sorted by length and committed together (1024)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an output that is there already")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
