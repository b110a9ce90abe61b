"""Ranks and votes on answers of people and models: Nectar, SHP-2, WebGPT comparisons."""

from rewardscale.data.sources.adapter import Adapter
from rewardscale.data.sources.labels import Annotator, Scores, Winner
from rewardscale.data.sources.shapes import Responses

ADAPTERS = (
    Adapter(
        name="nectar",
        title="Nectar",
        url="https://huggingface.co/datasets/berkeley-nest/Nectar",
        paper="Zhu et al. 2023, Starling-7B",
        licence="Apache-2.0, not to compete with OpenAI (an earlier card said CC-BY-NC-4.0)",
        hub="berkeley-nest/Nectar",
        files={"train": ("data/rlaif.parquet",)},
        shape=Responses("prompt", "answers[].answer", form="transcript"),
        labels=((Scores("answers[].rank", ranks=True), Annotator("gpt-4", "llm_judge")),),
        category="source",
        expected={"train": 182954},
        notes="Seven answers a prompt, ranked 1 to 7 by GPT-4 for help and harmlessness. Takes prompts and answers "
        "from HH-RLHF, UltraFeedback and LMSYS-Chat-1M. The commit is not pinned here.",
    ),
    Adapter(
        name="shp-2",
        title="Stanford Human Preferences 2",
        url="https://huggingface.co/datasets/stanfordnlp/SHP-2",
        paper="Ethayarajh et al. 2022, Understanding Dataset Difficulty with V-Usable Information",
        licence="Reddit API terms (Reddit parts) and CC-BY-SA (StackExchange parts); no licence of its own",
        hub="stanfordnlp/SHP-2",
        revision="628803d8055d947439f381e9877e9b4b69fb0d35",
        files={
            "train": ("*/train.json",),
            "validation": ("*/validation.json",),
            "test": ("*/test.json",),
        },
        shape=Responses("history", ("human_ref_A", "human_ref_B")),
        labels=((Winner("labels", ("1",), ("0",)), Annotator("SHP-2 voters", "person")),),
        category="domain",
        cost_unit="pairs",
        notes="A comment written later with a higher score counts as the better one: popularity of a post, not a "
        "judged comparison. The same comment is in many pairs. The authors train on pairs whose `score_ratio` "
        "is 2 or more.",
    ),
    Adapter(
        name="webgpt-comparisons",
        title="WebGPT comparisons",
        url="https://huggingface.co/datasets/openai/webgpt_comparisons",
        paper="Nakano et al. 2021, arXiv 2112.09332",
        licence="unknown; the card names none",
        hub="openai/webgpt_comparisons",
        files={"train": ("comparisons.jsonl*", "**/train*.parquet")},
        shape=Responses("question.full_text", ("answer_0", "answer_1")),
        labels=((Scores(("score_0", "score_1")), Annotator("WebGPT labellers", "person")),),
        category="question.dataset",
        expected={"train": 19578},
        notes="Scores lie in -1 to 1 and sum to 0; 0 is a tie. Answers cite quotes as [1], [2], which the labellers "
        "saw and a record's prompt does not show. The commit is not pinned here.",
    ),
)
