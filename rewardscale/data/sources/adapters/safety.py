"""PKU-SafeRLHF."""

from rewardscale.data.sources.adapter import Adapter
from rewardscale.data.sources.labels import Annotator, Winner
from rewardscale.data.sources.shapes import Responses

ADAPTER = Adapter(
    name="pku-saferlhf",
    title="PKU-SafeRLHF, helpfulness",
    url="https://huggingface.co/datasets/PKU-Alignment/PKU-SafeRLHF",
    paper="Ji et al. 2024, arXiv 2406.15513",
    licence="CC-BY-NC-4.0",
    hub="PKU-Alignment/PKU-SafeRLHF",
    files={"train": ("data/*/train.jsonl*",), "test": ("data/*/test.jsonl*",)},
    shape=Responses("prompt", ("response_0", "response_1")),
    labels=((Winner("better_response_id", ("0",), ("1",)), Annotator("PKU-SafeRLHF annotators", "source")),),
    category="prompt_source",
    notes="Two labels a pair: `better_response_id` is the more helpful one and is read, `safer_response_id` is the "
    "less harmful one and is not, since the two often disagree and a corpus holds one meaning of better. "
    "Labelled by people and models together. The commit is not pinned here.",
)
