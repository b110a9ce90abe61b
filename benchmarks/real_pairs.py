"""Real pairs for the benchmarks that take a tokenised view: python -m benchmarks.real_pairs DIR

DIR holds what experiments/006_benchmarks trains on: `ukpconvarg1` (which of two arguments convinces more) and `fgrlhf`
(answers to long questions, by people), and `tokenizers/gpt-neox-20b_tokenizer.json` (Apache-2.0). Builds the corpus
(rewardscale.build), the tokenizer with ChatML (experiments/006_benchmarks/tokenizer.py) and the view under --out, a
minute the first time and nothing after it, and prints the view's folder.
"""

import argparse
import contextlib
import subprocess
import sys
from pathlib import Path

OUT = Path("runs/real-pairs")


def view(data: Path, out: Path = OUT) -> Path:
    """The view's folder, built if it isn't there. Raises CalledProcessError if a step fails, which stderr explains."""
    from rewardscale.data.chat import load_chat_tokenizer
    from rewardscale.data.corpus import open_corpus
    from rewardscale.data.tokenised import build_view

    tokenizer, built = out / "tokenizer", out / "corpus"
    steps = {
        tokenizer: ["experiments/006_benchmarks/tokenizer.py", str(data), str(tokenizer)],
        built: [
            "-m", "rewardscale.build", f"--source=fgrlhf={data / 'fgrlhf'}",
            f"--source=ukpconvarg1={data / 'ukpconvarg1'}", f"--out={built}",
        ],
    }  # fmt: skip
    for step in steps.values():
        subprocess.run([sys.executable, *step], check=True, stdout=sys.stderr)
    return build_view(open_corpus(built / "corpus"), load_chat_tokenizer(tokenizer)).directory


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DIR", help="folder of data sets")
    parser.add_argument("--out", type=Path, default=OUT, help="what is built goes there (%(default)s)")
    options = parser.parse_args()
    with contextlib.suppress(BrokenPipeError):
        print(view(options.data, options.out))


if __name__ == "__main__":
    main()
