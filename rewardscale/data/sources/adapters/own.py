"""Files of one's own, in the shapes that need no adapter."""

from rewardscale.data.sources.adapter import Adapter
from rewardscale.data.sources.labels import Annotator, Chosen, Scores
from rewardscale.data.sources.shapes import Pairs, Responses

_ANY = {"train": ("*train*",), "validation": ("*valid*", "*dev*"), "test": ("*test*",), "": ("*",)}
_LICENCE = "unknown"

ADAPTERS = (
    Adapter(
        name="pairs",
        title="Pairs of your own",
        url="",
        licence=_LICENCE,
        shape=Pairs(),
        labels=((Chosen(), Annotator("source", "source")),),
        files=_ANY,
        notes="prompt, chosen and rejected, as text or messages, and the further forms of data/records.py; hh-rlhf "
        "transcripts are known by how they begin.",
    ),
    Adapter(
        name="rated",
        title="Rated responses of your own",
        url="",
        licence=_LICENCE,
        shape=Responses("prompt", "responses[]"),
        labels=((Scores("scores"), Annotator("source", "source")),),
        files=_ANY,
        notes="prompt (text or messages), responses and scores: a number, true or false, or null for each response.",
    ),
    Adapter(
        name="ranked",
        title="Ranked responses of your own",
        url="",
        licence=_LICENCE,
        shape=Responses("prompt", "responses[]"),
        labels=((Scores("ranks", ranks=True), Annotator("source", "source")),),
        files=_ANY,
        notes="prompt (text or messages), responses and ranks: 1 is the best.",
    ),
)
