"""Anthropic HH-RLHF and the HHH alignment set."""

from rewardscale.data.sources.adapter import Adapter
from rewardscale.data.sources.labels import Annotator, Chosen
from rewardscale.data.sources.shapes import Pairs

ADAPTERS = (
    Adapter(
        name="hh-rlhf",
        title="Anthropic HH-RLHF",
        url="https://github.com/anthropics/hh-rlhf",
        paper="Bai et al. 2022, arXiv 2204.05862",
        licence="MIT",
        hub="Anthropic/hh-rlhf",
        revision="09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa",
        files={
            "train": ("h*/train.jsonl.gz", "h*_train.jsonl.gz"),
            "test": ("h*/test.jsonl.gz", "h*_test.jsonl.gz"),
        },
        shape=Pairs(prompt="", form="transcript"),
        labels=((Chosen(), Annotator("hh-rlhf crowdworkers", "person")),),
        notes="One label a pair. Content is offensive in places. The red-team attempts are no pairs and are not "
        "taken.",
    ),
    Adapter(
        name="hhh",
        title="HHH alignment",
        url="https://github.com/google/BIG-bench/tree/main/bigbench/benchmark_tasks/hhh_alignment",
        paper="Askell et al. 2021, arXiv 2112.00861",
        licence="Apache-2.0",
        files={"test": ("*hhh_alignment*.jsonl*",)},
        shape=Pairs(),
        labels=((Chosen(), Annotator("hhh authors", "person")),),
        category="subset",
        evaluation_only=True,
        expected={"test": 221},
        notes="Read as prompt, chosen, rejected, subset. Written and checked by the authors. RewardBench's prior "
        "set anthropic_hhh is this task.",
    ),
)
