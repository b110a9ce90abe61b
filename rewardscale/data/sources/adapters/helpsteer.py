"""NVIDIA HelpSteer2, its preference annotations, and HelpSteer3."""

from rewardscale.data.sources.adapter import Adapter
from rewardscale.data.sources.labels import Annotator, Scores, Strength, Votes
from rewardscale.data.sources.shapes import Responses, Rows

ADAPTERS = (
    Adapter(
        name="helpsteer2",
        title="HelpSteer2, ratings",
        url="https://huggingface.co/datasets/nvidia/HelpSteer2",
        paper="Wang et al. 2024, arXiv 2406.08673",
        licence="CC-BY-4.0",
        hub="nvidia/HelpSteer2",
        revision="990b2711a36180dd19d9c94b8627844866f8982a",
        files={"train": ("train.jsonl*",), "validation": ("validation.jsonl*",)},
        shape=Rows(form="marked"),
        labels=((Scores("rows[].helpfulness"), Annotator("HelpSteer2 annotators, mean", "source")),),
        cost_unit="ratings",
        expected={"train": 20324, "validation": 1038},
        notes="A response a row, the two of a prompt one after the other. The score is `helpfulness` (0 to 4), the "
        "mean of several annotators, rounded; correctness, coherence, complexity and verbosity are not used. "
        "Many ties.",
    ),
    Adapter(
        name="helpsteer2-preference",
        title="HelpSteer2, preferences",
        url="https://huggingface.co/datasets/nvidia/HelpSteer2",
        paper="Wang et al. 2024, arXiv 2410.01257",
        licence="CC-BY-4.0",
        hub="nvidia/HelpSteer2",
        revision="990b2711a36180dd19d9c94b8627844866f8982a",
        files={"": ("preference/preference.jsonl.gz", "preference.jsonl*")},
        split_at="split",
        shape=Responses("prompt", ("response_1", "response_2"), form="marked"),
        labels=(
            (
                Strength("preference_strength", most=3),
                Annotator("HelpSteer2 annotators, overall", "source", 0.0),
            ),
            (
                Votes("all_preferences_unprocessed", Strength("strength", most=3)),
                Annotator("HelpSteer2 annotator", "person"),
            ),
        ),
        cost_unit="votes",
        notes="The source's label is the overall strength (-3 to 3, below 0 the first response), made from the "
        "three most similar votes; single votes follow, and a vote of -100 (neither response is valid) is "
        "left out. The prompts are those of HelpSteer2's ratings.",
    ),
    Adapter(
        name="helpsteer3",
        title="HelpSteer3-Preference",
        url="https://huggingface.co/datasets/nvidia/HelpSteer3",
        paper="Wang et al. 2025, arXiv 2505.11475",
        licence="CC-BY-4.0",
        hub="nvidia/HelpSteer3",
        files={"train": ("preference/train.jsonl.gz",), "validation": ("preference/validation.jsonl.gz",)},
        shape=Responses("context", ("response1", "response2")),
        labels=(
            (
                Strength("overall_preference", most=3),
                Annotator("HelpSteer3 annotators, overall", "source", 0.0),
            ),
            (
                Votes("individual_preference", Strength("score", most=3)),
                Annotator("HelpSteer3 annotator", "person"),
            ),
        ),
        category="domain",
        cost_unit="votes",
        expected={"train": 38459, "validation": 2017},
        notes="14 natural and 14 programming languages. Strength as in HelpSteer2-Preference; up to three votes "
        "follow. The commit is not pinned here: name one.",
    ),
)
