"""Mixtures of other sets, as pairs of whole conversations."""

from rewardscale.data.sources.adapter import Adapter
from rewardscale.data.sources.labels import Annotator, Chosen
from rewardscale.data.sources.shapes import Pairs

_PARQUET = {"train": ("data/train-*",)}
_OWN = "each part is also under its own source's terms, some of them non-commercial"

ADAPTERS = (
    Adapter(
        name="skywork-reward-preference-80k",
        title="Skywork Reward Preference 80K v0.2",
        url="https://huggingface.co/datasets/Skywork/Skywork-Reward-Preference-80K-v0.2",
        paper="Liu et al. 2024, arXiv 2410.18451",
        licence="unknown; the card names none and the parts have terms of their own",
        hub="Skywork/Skywork-Reward-Preference-80K-v0.2",
        revision="196326738b67b9c3e6aa6829cab639d8401ad385",
        files=_PARQUET,
        shape=Pairs(prompt=""),
        labels=((Chosen(), Annotator("Skywork mix", "source")),),
        category="source",
        expected={"train": 77016},
        notes="HelpSteer2, OffsetBias, WildGuard and Magpie: people and reward models have labelled it. v0.2 is "
        "v0.1 without 4,957 pairs that share prompts with RewardBench. Overlaps with helpsteer2.",
    ),
    Adapter(
        name="tulu-3-preference-mix",
        title="Tülu 3 8B preference mixture",
        url="https://huggingface.co/datasets/allenai/llama-3.1-tulu-3-8b-preference-mixture",
        paper="Lambert et al. 2024, arXiv 2411.15124",
        licence=f"ODC-BY-1.0; {_OWN}",
        hub="allenai/llama-3.1-tulu-3-8b-preference-mixture",
        files=_PARQUET,
        shape=Pairs(prompt=""),
        labels=((Chosen(), Annotator("gpt-4o", "llm_judge")),),
        category="source",
        expected={"train": 271409},
        notes="On-policy and off-policy answers judged by GPT-4o; its 70B and 405B siblings have the same columns. "
        "`prompt` is the first question only, so the conversations are read. The commit is not pinned here.",
    ),
    Adapter(
        name="olmo-2-preference-mix",
        title="OLMo 2 7B preference mix",
        url="https://huggingface.co/datasets/allenai/olmo-2-1124-7b-preference-mix",
        paper="OLMo et al. 2024, arXiv 2501.00656",
        licence=f"ODC-BY-1.0; {_OWN}",
        hub="allenai/olmo-2-1124-7b-preference-mix",
        files=_PARQUET,
        shape=Pairs(prompt=""),
        labels=((Chosen(), Annotator("gpt-4o", "llm_judge")),),
        category="source",
        expected={"train": 378339},
        notes="Shares prompts and pairs with tulu-3-preference-mix. The 13B and 32B mixes have the same columns. "
        "The commit is not pinned here.",
    ),
    Adapter(
        name="preference-700k",
        title="Preference 700K",
        url="https://huggingface.co/datasets/hendrydong/preference_700K",
        paper="Dong et al. 2024, arXiv 2405.07863",
        licence=f"unknown; the card names none, {_OWN}",
        hub="hendrydong/preference_700K",
        files=_PARQUET,
        shape=Pairs(prompt=""),
        labels=((Chosen(), Annotator("preference-700k mix", "source")),),
        notes="HH-RLHF, SHP, HelpSteer, PKU-SafeRLHF, UltraFeedback, UltraInteract, CodeUltraFeedback, Argilla's "
        "mixes, OpenOrca and Capybara: overlaps with the adapters of those names, and the parts' scores have "
        "different scales and are not read. The commit is not pinned here.",
    ),
)
