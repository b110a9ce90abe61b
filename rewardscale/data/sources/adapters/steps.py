"""Process reward sets: known, and refused with the reason."""

from rewardscale.data.sources.adapter import Adapter
from rewardscale.data.sources.shapes import NoPreferences

ADAPTERS = (
    Adapter(
        name="prm800k",
        title="PRM800K",
        url="https://github.com/openai/prm800k",
        paper="Lightman et al. 2023, arXiv 2305.20050",
        licence="MIT",
        files={"train": ("*train*.jsonl*",), "test": ("*test*.jsonl*",)},
        shape=NoPreferences(),
        labels=(),
    ),
    Adapter(
        name="math-shepherd",
        title="Math-Shepherd",
        url="https://huggingface.co/datasets/peiyi9979/Math-Shepherd",
        paper="Wang et al. 2023, arXiv 2312.08935",
        licence="unknown",
        files={"train": ("*.jsonl*",)},
        shape=NoPreferences(),
        labels=(),
    ),
)
