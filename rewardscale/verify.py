"""A parity certificate: the rewards of a Hugging Face directory here, in transformers, and after export.

    python -m rewardscale.verify DIR
    python -m rewardscale.verify DIR --json=certificate.json --reference=/opt/torch/bin/python
    python -m rewardscale.verify DIR --without_reference

DIR is a reward model (…ForSequenceClassification) with its tokenizer and chat template. A fixed set of conversations is
scored by transformers in float32 (a conversation at a time: the truth), padded in batches, and in bfloat16; by us in
float32 and bfloat16; by both after an export; and by vLLM and SGLang where the reference environment has them. Printed
are the largest difference of each, how many comparisons it turns, and what rewards depend on (weights, template,
tokenizer, date, reward token). One model is in memory at a time; the export needs room in the temporary folder
(TMPDIR).

exit code: 0 all within tolerance, 1 something beyond it, or a leg that failed, 2 bad input or no reference environment,
130 interrupted, 143 terminated. More: docs/verify.md
"""

import argparse
import signal
import sys
from pathlib import Path

from tqdm import tqdm

from rewardscale import atomic, exits, interrupts
from rewardscale.cli import exit_code
from rewardscale.evaluation.flags import mesh

BEYOND = 1


def main(arguments: list[str] | None = None) -> int:
    """Parses flags, makes the certificate, prints it. Returns the exit code."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    interrupts.raise_on(
        signal.SIGTERM, lambda: SystemExit(128 + signal.SIGTERM)
    )  # the export is removed then too
    return exit_code(lambda: _verify(options), interrupted="")


def _verify(options: argparse.Namespace) -> int:
    from rewardscale.evaluation import certificate, certificate_run

    reference = None if options.without_reference else certificate_run.find_reference(options.reference)
    with tqdm(
        desc="verifying", unit=" legs", bar_format="{desc}: {n_fmt}/{total_fmt} {bar} {elapsed}"
    ) as bar:

        def progress(what: str, done: int, total: int) -> None:
            bar.total = total
            bar.set_description_str(what, refresh=False)
            bar.n = done
            bar.refresh()

        try:
            found = certificate_run.certify(
                options.directory, reference, revision=options.revision, mesh=options.mesh, progress=progress
            )
        except certificate_run.LegError as error:
            bar.close()
            print(f"FAILED: {bar.desc}: {error}", file=sys.stderr)
            return BEYOND
    print(certificate.as_text(found))
    if reference is None:
        print("nothing was compared with transformers (--without_reference)")
    if options.json:
        atomic.write_json(options.json, found.as_json())
    return 0 if found.passed else BEYOND


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rewardscale.verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False, epilog=exits.AGAIN_HELP,
    )  # fmt: skip
    parser.add_argument("directory", metavar="DIR", help="a Hugging Face directory, or a hub id")
    parser.add_argument("--revision", metavar="COMMIT", help="the commit, for a hub id")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--reference",
        metavar="PYTHON",
        help="a Python with torch and transformers (REWARDSCALE_REFERENCE; else .venv-reference/bin/python)",
    )
    which.add_argument(
        "--without_reference", action="store_true", help="our legs alone, nothing compared with transformers"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the certificate as JSON too")
    parser.add_argument(
        "--mesh",
        type=mesh,
        default=(-1, 1, 1),
        metavar="DATA,FSDP,TENSOR",
        help="how devices share the model in our legs (-1,1,1: each holds it whole)",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
