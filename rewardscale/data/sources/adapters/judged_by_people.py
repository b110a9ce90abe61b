"""Smaller sets with several labels a prompt: Fine-Grained RLHF, LLMBar, UKPConvArg1, RM-Bench."""

from rewardscale.data.sources.adapter import Adapter, Join
from rewardscale.data.sources.labels import AllPairs, Annotator, Sides, Votes, Winner
from rewardscale.data.sources.shapes import Responses

_ARGUMENT = Winner("v", ("a1",), ("a2",), ("equal",))

ADAPTERS = (
    Adapter(
        name="fgrlhf",
        title="Fine-Grained RLHF, long-form answers",
        url="https://github.com/allenai/FineGrainedRLHF",
        paper="Wu et al. 2023, arXiv 2306.01693",
        licence="Apache-2.0",
        files={"train": ("*train_feedback.json*",), "validation": ("*dev_feedback.json*",)},
        shape=Responses(
            "question", tuple(f"prediction {number}" for number in range(1, 5)), passages="passages"
        ),
        labels=((AllPairs("preference"), Annotator("fgrlhf crowdworkers", "person")),),
        expected={"validation": 500},
        notes="Four predictions a question, all six pairs labelled; passages follow the question. The span-level "
        "feedback on the first prediction is not read.",
    ),
    Adapter(
        name="llmbar",
        title="LLMBar",
        url="https://github.com/princeton-nlp/LLMBar",
        paper="Zeng et al. 2023, arXiv 2310.07641",
        licence="MIT; the processed sets are also under their own sources' terms",
        files={"test": ("*dataset.json*",)},
        shape=Responses("input", ("output_1", "output_2")),
        labels=((Winner("label", ("1",), ("2",)), Annotator("LLMBar authors", "person")),),
        evaluation_only=True,
        notes="The Natural and Adversarial parts are most of RewardBench's Chat Hard. FairEval, LLMEval^2 and "
        "MT-Bench parts are majority votes without ties. Some prompts are in several parts.",
    ),
    Adapter(
        name="ukpconvarg1",
        title="UKPConvArg1, convincing arguments",
        url="https://github.com/UKPLab/acl2016-convincing-arguments",
        paper="Habernal and Gurevych 2016, ACL",
        licence="CC-BY-4.0; texts of createdebate.com CC-BY-3.0, of convinceme.net public domain",
        files={"": ("*pairs.jsonl.gz",)},
        joins=tuple(
            Join(
                "arguments.jsonl.gz",
                on=(("topic", "topic"), (f"a{side}", "id")),
                take={f"text {side}": "text"},
            )
            for side in (1, 2)
        ),
        shape=Responses(
            "Debate: {title}\nSide: {stance}\nGive a convincing argument for this side.", ("text 1", "text 2")
        ),
        labels=(
            (Winner("gold", ("a1",), ("a2",), ("equal",)), Annotator("MACE", "source", 0.0)),
            (Votes("votes", _ARGUMENT, name="w", confidence="c"), Annotator("worker", "person")),
        ),
        category="topic",
        group="title",
        cost_unit="votes",
        notes="The source's label is the authors' estimate from all votes (MACE), null for 846 pairs; the votes "
        "follow, their confidence is the worker's competence by MACE. Debates of people, no model's output. "
        "Verdicts by round and the XML layout: data/sources/ukpconvarg1.py.",
    ),
    Adapter(
        name="rm-bench",
        title="RM-Bench",
        url="https://github.com/THU-KEG/RM-Bench",
        paper="Liu et al. 2024, arXiv 2410.16184",
        licence="ODC-BY (Hugging Face card); the git repository names none",
        hub="THU-KEG/RM-Bench",
        files={"test": ("*_filtered.json*",)},
        shape=Responses("prompt", ("chosen[]", "rejected[]")),
        labels=((Sides(), Annotator("RM-Bench authors", "source")),),
        category="subset",
        evaluation_only=True,
        notes="Three chosen and three rejected answers: concise, detailed, detailed with markdown, in this order. "
        "Its own score compares styles, which pairs do not show. Edited by GPT-4o, checked by people. The "
        "commit is not pinned here.",
    ),
)
