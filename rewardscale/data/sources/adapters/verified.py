"""Answers whose correctness was checked: by an answer key or by tests."""

from rewardscale.data.sources.adapter import Adapter, Join
from rewardscale.data.sources.labels import Annotator, Chosen, Scores
from rewardscale.data.sources.shapes import Responses

_SYSTEMS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
_PPE = {
    "mmlu-pro": ("PPE-MMLU-Pro-Best-of-K", "category"),
    "gpqa": ("PPE-GPQA-Best-of-K", "Subdomain"),
}


def _ppe(name: str, repository: str, category: str) -> Adapter:
    return Adapter(
        name=f"ppe-{name}",
        title=f"Preference Proxy Evaluations, {repository}",
        url=f"https://huggingface.co/datasets/lmarena-ai/{repository}",
        paper="Frick et al. 2024, arXiv 2410.14872",
        licence="unknown; the benchmark's own terms and each model provider's",
        hub=f"lmarena-ai/{repository}",
        files={"": ("data/*.parquet",)},
        shape=Responses("prompt", tuple(f"response_{number}" for number in range(1, 33))),
        labels=((Scores("scores"), Annotator("answer key", "source")),),
        category=category,
        evaluation_only=True,
        notes="32 answers of one model a question, right or wrong. Made to evaluate with, not to train on. The "
        "commit is not pinned here.",
    )


ADAPTERS = (
    Adapter(
        name="mmlu-pro-responses",
        title="MMLU-Pro answers of 29 models, right and wrong",
        url="https://github.com/TIGER-AI-Lab/MMLU-Pro",
        paper="Wang et al. 2024, arXiv 2406.01574",
        licence="Apache-2.0; answers are also under each model provider's terms",
        files={"": ("*responses.jsonl.xz",)},
        joins=(
            Join(
                "questions.jsonl.xz",
                on=(("question_id", "question_id"),),
                take={"question": "question", "options": "options", "category": "category"},
            ),
        ),
        shape=Responses("question", "responses[].text", options="options"),
        labels=(
            (
                Scores("responses[].correct", judged="responses[].pred"),
                Annotator("answer key", "source", 0.0),
            ),
        ),
        category="category",
        notes="Answers without a parsed letter are not judged. 255 of JudgeBench's 308 MMLU-Pro questions are here, "
        "and PPE Correctness uses MMLU-Pro: decontaminate. Balanced pairs of right and wrong answers, without "
        "shortcuts: data/sources/mmlu_pro_responses.py.",
    ),
    Adapter(
        name="gsm8k-solutions",
        title="GSM8K example model solutions",
        url="https://github.com/openai/grade-school-math",
        paper="Cobbe et al. 2021, arXiv 2110.14168",
        licence="MIT",
        files={"test": ("*example_model_solutions.jsonl*",)},
        shape=Responses("question", tuple(f"{system}.solution" for system in _SYSTEMS)),
        labels=(
            (
                Scores(tuple(f"{system}.is_correct" for system in _SYSTEMS)),
                Annotator("answer key", "source", 0.0),
            ),
        ),
        expected={"test": 1319},
        notes="Questions of GSM8K's test set: training on these contaminates it.",
    ),
    Adapter(
        name="humanevalpack",
        title="HumanEvalPack, canonical against buggy",
        url="https://github.com/bigcode-project/octopack",
        paper="Muennighoff et al. 2023, arXiv 2308.07124",
        licence="MIT",
        files={
            "test": (
                "*/humanevalpack.jsonl",
                *(f"{one}.jsonl*" for one in ("python", "cpp", "go", "java", "js", "rust")),
            )
        },
        shape=Responses(
            "instruction", ("{declaration}{canonical_solution}", "{declaration}{buggy_solution}")
        ),
        labels=((Chosen(), Annotator("unit tests", "source", 0.0)),),
        evaluation_only=True,
        expected={"test": 984},
        notes="164 problems in each of six languages. RewardBench's hep-* subsets pair the same solutions; how it "
        "formats them could not be compared, so this is a reconstruction.",
    ),
    *(_ppe(name, *rest) for name, rest in _PPE.items()),
)
