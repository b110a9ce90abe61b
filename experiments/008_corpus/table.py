"""Prints the tables of this folder's README from build.json of the two corpora.

python experiments/008_corpus/table.py experiments/008_corpus/training.json experiments/008_corpus/evaluation.json
"""

import json
import sys
from pathlib import Path

# What each set's origin says it holds, and in which unit.
ORIGIN = {
    "ukpconvarg1": (16_927, "pairs"),
    "fgrlhf": (500, "questions"),
    "hh-rlhf": (2_312, "pairs"),
    "gsm8k-solutions": (1_319, "questions"),
    "mmlu-pro-responses": (12_032, "questions"),
    "hhh": (221, "pairs"),
    "llmbar": (1_200, "pairs"),
    "rm-bench": (798, "items of 3 x 3"),
    "humanevalpack": (984, "problems"),
}


def listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items()) or "none"


def main(paths: list[str]) -> None:
    for path in paths:
        record = json.loads(Path(path).read_text())
        print(f"\n**{record['name'] if 'name' in record else record['config']['name']}**, ", end="")
        print(f"{record['comparisons']:,} pairs, hash `{record['fingerprint'][:12]}`\n")
        print("| source | its origin says | read | refused | not paired | pairs | dropped | kept |")
        print("|---|---|---|---|---|---|---|---|")
        for source in record["sources"]:
            said, unit = ORIGIN[source["name"]]
            print(
                f"| {source['name']} | {said:,} {unit} | {source['comparisons']:,} | {listed(source['refused'])} "
                f"| {listed(source['unpaired'])} | {source['items']:,} | {listed(source['dropped'])} "
                f"| {source['kept']:,} |"
            )
        for name, counts in record["stages"].items():
            shown = {k: v for k, v in counts.items() if isinstance(v, int | float)}
            print(f"\n`{name}`: " + ", ".join(f"{k} {v:,}" for k, v in shown.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
