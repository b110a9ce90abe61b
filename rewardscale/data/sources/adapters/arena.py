"""Votes of Chatbot Arena's visitors."""

from rewardscale.data.sources.adapter import Adapter
from rewardscale.data.sources.labels import Annotator, Scores, Winner
from rewardscale.data.sources.shapes import Pairs

_VISITORS = Annotator("arena visitors", "person")
_WHY = (
    "People chat with both models for some turns before they vote, so most longer conversations part before "
    "their last answer and are refused: the answers reply to different histories."
)

ADAPTERS = (
    Adapter(
        name="arena-55k",
        title="Arena human preference 55k",
        url="https://huggingface.co/datasets/lmarena-ai/arena-human-preference-55k",
        paper="Chiang et al. 2024, arXiv 2403.04132",
        licence="Apache-2.0; answers are also under each model provider's terms",
        hub="lmarena-ai/arena-human-preference-55k",
        revision="18c298340948c0e7f7727399fd459cca6ce0ca6f",
        files={"train": ("train.csv",)},
        shape=Pairs("response_a", "response_b", form="turns"),
        labels=((Scores(("winner_model_a", "winner_model_b")), _VISITORS),),
        cost_unit="votes",
        notes=f"Ties and both-bad are one column and count as ties. {_WHY}",
    ),
    Adapter(
        name="arena-100k",
        title="Arena human preference 100k",
        url="https://huggingface.co/datasets/lmarena-ai/arena-human-preference-100k",
        paper="Tang et al. 2025, Arena Explorer",
        licence="CC-BY-4.0 (prompts); answers are under each model provider's terms",
        hub="lmarena-ai/arena-human-preference-100k",
        revision="72e85b3ddc9c81bf7b659d6b03d4126dfd8fb34a",
        files={"train": ("data/*.parquet",)},
        shape=Pairs("conversation_a", "conversation_b", prompt=""),
        labels=(
            (
                Winner("winner", ("model_a",), ("model_b",), ("tie", "tie (bothbad)", "both_bad")),
                _VISITORS,
            ),
        ),
        category="language",
        cost_unit="votes",
        notes=f"Both-bad counts as a tie. arena-human-preference-140k has the same columns. {_WHY}",
    ),
)
