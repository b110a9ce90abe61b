"""The data of a sweep: built once under its working folder, then opened by every process.

<workdir>/data/<source>-<hash>/{corpus,ledger,levels}    the hash covers everything that made it
"""

from pathlib import Path

from rewardscale import atomic
from rewardscale.config import DataConfig, content_hash, to_mapping
from rewardscale.data.tokenised import TokenisedView, build_view, open_view, view_key
from rewardscale.sweeps.sources.base import VALIDATION, Dataset, EvaluationSet, Labelled, Progress, named
from rewardscale.sweeps.sources.curated import CuratedDataset
from rewardscale.sweeps.sources.objective import ObjectiveDataset
from rewardscale.sweeps.sources.planted import PlantedDataset
from rewardscale.sweeps.sources.planted_linear import PlantedLinearDataset
from rewardscale.sweeps.sources.votes import VotesDataset

__all__ = [
    "VALIDATION",
    "CuratedDataset",
    "Dataset",
    "EvaluationSet",
    "Labelled",
    "ObjectiveDataset",
    "PlantedDataset",
    "PlantedLinearDataset",
    "VotesDataset",
    "prepare",
    "view",
]

SOURCES = {
    "planted": PlantedDataset,
    "planted_linear": PlantedLinearDataset,
    "votes": VotesDataset,
    "objective": ObjectiveDataset,
    "curated": CuratedDataset,
}


def prepare(
    config: DataConfig, workdir: Path, data_dir: Path | None, *, progress: Progress | None = None
) -> Dataset:
    """Opens the sweep's data, building what is missing. Two processes may call it at once.

    Raises DataError for missing or damaged files, with the mend.
    """
    chosen = to_mapping(getattr(config, config.source))
    directory = Path(workdir) / "data" / f"{config.source}-{content_hash([config.source, chosen], digits=12)}"
    directory.mkdir(parents=True, exist_ok=True)
    with atomic.locked(directory / "lock"):
        return SOURCES[config.source].build(config, directory, data_dir, progress)


def view(dataset: Dataset, *, progress: Progress | None = None) -> TokenisedView:
    """The tokenised view of the sweep's corpus, built at the first call."""
    pointer = dataset.directory / "VIEW"
    with atomic.locked(dataset.directory / "lock"):
        if pointer.exists():
            return open_view(dataset.corpus.directory / "views" / pointer.read_text().strip())
        tokenizer, template = dataset.tokenizer()
        built = build_view(
            dataset.corpus, tokenizer, template, progress=named(progress, "tokens", len(dataset.corpus))
        )
        atomic.write_bytes(pointer, view_key(dataset.corpus, tokenizer, template).encode())
        return built
