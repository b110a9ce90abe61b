"""UltraFeedback: the raw ratings, and Zephyr's pairs made of them."""

from rewardscale.data.sources.adapter import Adapter
from rewardscale.data.sources.labels import Annotator, Chosen, Scores
from rewardscale.data.sources.shapes import Pairs, Responses

_RATING = "completions[].annotations.{}.Rating".format

ADAPTERS = (
    Adapter(
        name="ultrafeedback",
        title="UltraFeedback",
        url="https://huggingface.co/datasets/openbmb/UltraFeedback",
        paper="Cui et al. 2023, arXiv 2310.01377",
        licence="MIT",
        hub="openbmb/UltraFeedback",
        files={"train": ("*.jsonl",)},
        shape=Responses("instruction", "completions[].response"),
        labels=(
            (
                Scores(
                    _RATING("instruction_following"),
                    mean=(_RATING("honesty"), _RATING("truthfulness"), _RATING("helpfulness")),
                ),
                Annotator("gpt-4", "llm_judge"),
            ),
        ),
        category="source",
        cost_unit="ratings",
        expected={"train": 63967},
        notes="Four responses a prompt. The score is the mean of the four aspects' ratings (1 to 5; N/A is left "
        "out) and not `overall_score`, of which 2,628 were 10 instead of 1 until December 2023. TruthfulQA's "
        "questions are among the prompts: decontaminate. The commit is not pinned here.",
    ),
    Adapter(
        name="ultrafeedback-binarized",
        title="UltraFeedback Binarized (Zephyr)",
        url="https://huggingface.co/datasets/HuggingFaceH4/ultrafeedback_binarized",
        paper="Tunstall et al. 2023, arXiv 2310.16944",
        licence="MIT",
        hub="HuggingFaceH4/ultrafeedback_binarized",
        revision="3949bf5f8c17c394422ccfab0c31ea9c20bdeb85",
        files={"train": ("data/train_prefs-*",), "test": ("data/test_prefs-*",)},
        shape=Pairs(),
        labels=((Chosen(scores=("score_chosen", "score_rejected")), Annotator("gpt-4", "llm_judge")),),
        expected={"train": 61135, "test": 2000},
        notes="Chosen is the response with the highest `overall_score`, rejected a random other one; where their "
        "scores are equal it is a tie here.",
    ),
)
