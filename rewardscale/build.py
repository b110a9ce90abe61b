"""Builds a corpus of public preference sets: texts, manifest, ledger and the raw level, with a count for every drop.

    python -m rewardscale.build --source=pairs.jsonl --out=corpora/mine         # {"prompt", "chosen", "rejected"}
    python -m rewardscale.build --source=hh-rlhf=DIR --source=helpsteer2 --out=corpora/two   # a folder, the hub
    python -m rewardscale.build --config=build.py:local --data_dir=DIR --engine=process:8
    python -m rewardscale.build --sources                                              # the sets that are known by name
    python -m rewardscale.build corpora/two --tokenise=TOKENIZER                       # its tokens, for one backbone
    python -m rewardscale.build corpora/two --describe                                 # an HTML page of what is in it
    python -m rewardscale.build corpora/two --explain=10000                     # where a subset's pairs come from

Steps: normalise, validate, exact duplicates (label conflicts reported), near-duplicates, decontamination, split by
prompt. What cannot be used is counted and listed in quarantine.jsonl with file, line and reason. The same inputs give
the same bytes with any --engine. Kill it whenever you like: the same command goes on where it stopped, and a finished
corpus is left alone. Exit codes: 0 done, 2 bad input, 130 interrupted.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rewardscale import exits
from rewardscale.cli import exit_code
from rewardscale.config import ConfigError
from rewardscale.config.build import BuildConfig, SourceConfig
from rewardscale.data.remote import RECORDS
from rewardscale.remote import commits, origin, publish
from rewardscale.sweeps import configfile


def main(arguments: list[str] | None = None) -> int:
    """Parses flags, does one of the steps, reports. Returns the exit code."""
    options, overrides = _parse(sys.argv[1:] if arguments is None else arguments)
    return exit_code(lambda: _run(options, overrides), kept="nothing written so far is lost", computes=False)


def _run(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    if options.sources:
        return _list_sources()
    steps = {"tokenise": _tokenise, "explain": _explain, "describe": _describe, "tfds": _tfds}
    asked = [step for name, step in steps.items() if getattr(options, name)]
    if bool(asked) != bool(options.corpus) or (asked and (options.source or options.out)):
        raise ConfigError(
            "a finished corpus is named first and then what to do with it, as in corpora/two --describe; to build one, "
            "give --source or --config"
        )
    if asked and not (options.corpus / "build.json").is_file():
        raise ConfigError(f"{options.corpus} is no finished corpus: it has no build.json")
    return max(step(options) for step in asked) if asked else _build(options, overrides)


def _build(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    from rewardscale.data.build import run

    config = _config(options, overrides)
    directory = origin.folder(options.out or Path("corpora") / config.name)
    bars: dict[str, tqdm] = {}

    def progress(stage: str, done: int, total: int) -> None:
        bar = bars.setdefault(stage, tqdm(total=total or None, desc=stage, unit=" tasks", delay=0.5))
        bar.update(done - bar.n)

    try:
        built = run.build(
            config, directory, data_dir=options.data_dir, engine=options.engine, keep_work=options.keep_work,
            progress=progress,
        )  # fmt: skip
    finally:
        for bar in bars.values():
            bar.close()
    _publish(built.directory)
    print(closing(built.record, built.directory))
    return 0


def _publish(directory: Path) -> None:
    """Sends a corpus to the URL that its folder is a copy of, if it is one: files, then the records that name them."""
    store = origin.objects(directory)
    if store is None:
        return
    record = directory / "build.json"
    if store.read(record.name) == record.read_bytes():
        return  # written last, so all is there
    files = [file for file in commits.files_below(directory) if not file.startswith((".", "work/"))]
    publish.publish(store, directory, files, last=(*RECORDS, record.name))


def _config(options: argparse.Namespace, overrides: Mapping[str, str]) -> BuildConfig:
    spec = options.config or ("build.py:bare" if options.source else "build.py")
    config, _ = configfile.load(spec, overrides, kind=BuildConfig)
    given = tuple(_source(text) for text in options.source)
    return dataclasses.replace(config, sources=given) if given else config


def _source(text: str) -> SourceConfig:
    """ "adapter[@commit][=path]" (without a path from the hub), or "path" of the usual forms."""
    from rewardscale.data.sources.adapter import adapter, registry

    name, equals, path = text.partition("=")
    name, _, commit = name.partition("@")
    if Path(text).exists() or not (equals or name in registry()):
        return SourceConfig(path=text, name=Path(text).name.partition(".")[0])
    return SourceConfig(adapter(name).name, path, revision=commit)


def _tokenise(options: argparse.Namespace) -> int:
    from rewardscale.data.chat import load_chat_tokenizer
    from rewardscale.data.corpus import open_corpus
    from rewardscale.data.tokenised import build_view

    corpus, chat = open_corpus(options.corpus / "corpus"), load_chat_tokenizer(options.tokenise)
    with tqdm(total=len(corpus), desc="tokens", unit=" rows", delay=0.5) as bar:

        def progress(done: int) -> None:
            bar.update(done - bar.n)

        view = build_view(corpus, chat, engine=options.engine, progress=progress)
    print(f"view    {view.directory} ({view.tokens:,} tokens of {len(view):,} comparisons)")
    return 0


def _explain(options: argparse.Namespace) -> int:
    """A subset as a sweep would draw it from the training split."""
    import numpy as np
    import polars as pl

    from rewardscale.data.corpus import open_corpus
    from rewardscale.data.explain import explain, explain_text
    from rewardscale.data.levels import level_names, read_level
    from rewardscale.data.subsets import subset

    corpus, levels = open_corpus(options.corpus / "corpus"), options.corpus / "levels"
    if options.level not in level_names(levels):
        raise ConfigError(
            f"--level={options.level}: {levels} holds {', '.join(level_names(levels)) or 'none'}"
        )
    rows = corpus.scan_manifest().filter(pl.col("split") == "train").select("row").collect()
    pool, level = rows["row"].to_numpy().astype(np.uint32), read_level(levels / options.level)
    chosen = subset(level, options.explain, pool=pool, seed=options.seed, draw=options.draw)
    print(explain_text(explain(chosen, corpus, [level])), end="")
    print(f"{len(chosen):,} pairs out of {chosen.raw_pairs:,} looked at; hash {chosen.fingerprint[:12]}")
    return 0


def _describe(options: argparse.Namespace) -> int:
    from rewardscale.data.describe import describe

    print(f"page    {describe(options.corpus)}")
    return 0


def _tfds(options: argparse.Namespace) -> int:
    from rewardscale.data.build import tfds

    with tqdm(desc="tfds", unit=" tasks", delay=0.5) as bar:

        def progress(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        name = options.corpus.resolve().name.lower().replace("-", "_").replace(".", "_")
        folder = tfds.export(
            options.corpus / "corpus", options.tfds, name=name, engine=options.engine, progress=progress
        )
    print(f"tfds    {folder}")
    return 0


def _list_sources() -> int:
    from rewardscale.data.sources.adapter import registry

    width = max(map(len, registry()))
    for name, one in registry().items():
        print(f"{name.ljust(width)}  {one.title} [{one.licence}]{one.hub and f' {one.hub}'}")
    return 0


def closing(record: Mapping[str, Any], directory: Path) -> str:
    """A line a source whose counts add up, and where the corpus is."""
    lines = []
    for source in record["sources"]:
        left_out = (("refused", "refused"), ("unpaired", "not paired"), ("dropped", "dropped"))
        reasons = "".join(
            f"; {word}: {', '.join(f'{count:,} {reason}' for reason, count in source[key].items())}"
            for key, word in left_out
            if source[key]
        )
        lines.append(
            f"{source['name']}: {source['comparisons']:,} comparisons read, {source['items']:,} "
            f"after pairing, {source['kept']:,} kept{reasons}"
        )
    if any(source["refused"] for source in record["sources"]):
        lines.append(f"refused, one by one: {origin.shown(directory / 'quarantine.jsonl', directory)}")
    place, fingerprint = origin.shown(directory, directory), record["fingerprint"][:12]
    lines.append(f"corpus  {place} ({record['comparisons']:,} comparisons, {fingerprint})")
    return "\n".join(lines)


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    parser = argparse.ArgumentParser(
        prog="python -m rewardscale.build", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False, epilog=exits.AGAIN_HELP,
    )  # fmt: skip
    add = parser.add_argument
    add("corpus", nargs="?", type=Path, help="a finished corpus, for the steps that work on one")
    add(
        "--config", metavar="FILE[:VARIANT]", help="a bare name is looked for in configs/ (default: build.py)"
    )
    add(
        "--source",
        action="append",
        default=[],
        metavar="[ADAPTER=]PATH|ADAPTER[@COMMIT]",
        help="a file or folder, or the hub; again for more, the earlier one wins a duplicate (default: the config's)",
    )
    add(
        "--out",
        metavar="DIR|URL",
        help="folder of the corpus, or s3://..., gs://... (default: corpora/<config.name>)",
    )
    add("--data_dir", type=Path, help="where relative paths are looked for first")
    add("--engine", default="process", help="inline, process[:WORKERS], ray[:ADDRESS] (default: %(default)s)")
    add("--keep_work", action="store_true", help="keep the stages' files, which hold what was dropped")
    add(
        "--tokenise",
        metavar="DIR",
        type=Path,
        help="folder of a Hugging Face tokenizer with its chat template",
    )
    add("--describe", action="store_true", help="write describe.html into the corpus's folder")
    add("--explain", type=int, default=0, metavar="PAIRS", help="where the pairs of a subset come from")
    add("--level", default="raw", help="of the subset to explain (default: %(default)s)")
    add("--draw", type=int, default=0, help="of the subset to explain")
    add("--seed", type=int, default=0, help="of the subset to explain")
    add("--tfds", metavar="DIR", type=Path, help="export as a TensorFlow dataset below DIR")
    add("--sources", action="store_true", help="list the sets that are known by name")
    options, overrides = configfile.parse_arguments(parser, arguments, example="--config.near.threshold=0.8")
    return options, overrides


if __name__ == "__main__":
    sys.exit(main())
