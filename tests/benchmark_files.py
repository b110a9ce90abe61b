"""Files in the schemas of the benchmarks' official data, with made-up texts: for sets that are not at hand.

Each writes a folder in the layout of the set's hub snapshot or repository, by the schemas of the sets' cards and
scorers, and returns its records as they were written.
"""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from rewardscale.evaluation.benchmarks import ppe_correctness, rewardbench, rewardbench2, rm_bench

Records = list[dict[str, Any]]


def parquet(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(list(records), infer_schema_length=None).write_parquet(path)
    return path


def jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    return _text(path, "".join(json.dumps(record) + "\n" for record in records))


def array(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    return _text(path, json.dumps(list(records), indent=1))


def _text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def rewardbench_records(sizes: Mapping[str, int]) -> Records:
    """`sizes`: pairs by subset; the real number of math-prm is 447, whatever it weighs."""
    out: Records = []
    for subset, size in sizes.items():
        for _ in range(size):
            number = len(out)
            out.append(
                {
                    "prompt": f"question {number}",
                    "chosen": f"good answer {number}",
                    "chosen_model": "a",
                    "rejected": f"bad answer {number}",
                    "rejected_model": "b",
                    "subset": subset,
                    "id": number,
                }
            )
    return out


def rewardbench_sizes() -> dict[str, int]:
    """The real sizes of all subsets: 2,985."""
    sizes = {name: size for subsets in rewardbench.SECTIONS.values() for name, size in subsets.items()}
    return sizes | {"math-prm": 447}


def write_rewardbench(folder: Path, sizes: Mapping[str, int]) -> Records:
    records = rewardbench_records(sizes)
    parquet(folder / "data" / "filtered-00000-of-00001.parquet", records)
    parquet(folder / "data" / "raw-00000-of-00001.parquet", records[:1])  # the split that is not read
    return records


def write_prior(folder: Path, sizes: Mapping[str, int]) -> None:
    for name, size in sizes.items():
        records = [
            {
                "prompt": [{"content": f"{name} question {n}", "role": "user"}],
                "chosen": f"good {n}",
                "rejected": f"bad {n}",
                "subset": "",
                "id": n,
            }
            for n in range(size)
        ]
        parquet(folder / "data" / f"{name}-00000-of-00001.parquet", records)


def rewardbench2_records(sizes: Mapping[str, int]) -> Records:
    """`sizes`: prompts by subset; those of Ties are half ref and half tied, k from 0, with 2 to 4 right answers."""
    out: Records = []
    for subset, size in sizes.items():
        for number in range(size):
            right, wrong, id = 1, 3, str(len(out))
            if subset == rewardbench2.TIES:
                k = number // 2
                right, id = (1, f"ref:{k}") if number % 2 == 0 else (2 + k % 3, f"tied:{k}")
                wrong = 2 + k % 4
            out.append(
                {
                    "id": id,
                    "prompt": f"{subset} question {number}",
                    "chosen": [f"right {id} {n}" for n in range(right)],
                    "rejected": [f"wrong {id} {n}" for n in range(wrong)],
                    "num_correct": right,
                    "num_incorrect": wrong,
                    "total_completions": right + wrong,
                    "models": ["m"] * (right + wrong),
                    "subset": subset,
                    "additional_metadata": None,
                }
            )
    return out


def write_rewardbench2(folder: Path, sizes: Mapping[str, int] = rewardbench2.SIZES) -> Records:
    records = rewardbench2_records(sizes)
    parquet(folder / "data" / "test-00000-of-00001.parquet", records)
    return records


def write_ppe_preference(folder: Path, winners: Iterable[str]) -> Records:
    records: Records = [
        {
            "question_id": f"q{n}",
            "model_a": "a",
            "model_b": "b",
            "winner": winner,
            "prompt": f"question {n}",
            "response_1": "one" * (1 + n % 3),
            "response_2": "two" * (1 + n % 2),
            "language": ("English", "Chinese", "Russian", "German")[n % 4],
            "conv_metadata": {"turns": 1},
            "is_code": n % 2 == 0,
            "is_refusal": False,
            "hard_prompt": n % 3 == 0,
            "easy_prompt": n % 5 == 0,
            "if_prompt": n % 2 == 1,
            "math_prompt": n % 7 == 0,
        }
        for n, winner in enumerate(winners)
    ]
    parquet(folder / "data" / "test-00000-of-00001.parquet", records)
    return records


def ppe_correctness_records(name: str, size: int) -> Records:
    """32 answers a question, 4 to 28 of them right; five sampled pairs of a right and a wrong one, either first."""
    out: Records = []
    for n in range(size):
        scores = [(7 * number + 3 * n) % 32 < 4 + n % 25 for number in range(ppe_correctness.ANSWERS)]
        right = [number for number, own in enumerate(scores) if own]
        wrong = [number for number, own in enumerate(scores) if not own]
        pairs = [[right[p % len(right)], wrong[(p * 2) % len(wrong)]] for p in range(5)]
        out.append(
            {
                "question_id": str(n // 4),  # a question is there for each of four models
                "prompt": f"{name} question {n // 4}",
                "model_name": f"model {n % 4}",
                **{f"response_{k + 1}": f"{name} {n} answer {k}" for k in range(ppe_correctness.ANSWERS)},
                "scores": scores,
                "mean_score": sum(scores) / len(scores),
                "sampled_conflict_pairs": [pair if p % 2 else pair[::-1] for p, pair in enumerate(pairs)],
            }
        )
    return out


def write_ppe_correctness(
    folder: Path, sizes: Mapping[str, int] = ppe_correctness.SIZES
) -> dict[str, Records]:
    out = {name: ppe_correctness_records(name, size) for name, size in sizes.items()}
    for name, records in out.items():
        parquet(folder / f"PPE-{name}-Best-of-K" / "data" / "train-00000-of-00001.parquet", records)
    return out


RMB_SCENARIOS = {
    "Helpfulness/Chat/Discussion": 0,
    "Helpfulness/Code/Data Management": 1,
    "Harmlessness/S1": 0,
    "Harmlessness/multi": 2,
}  # turns before the last question


def write_rmb(folder: Path, pairs: int, lists: int) -> None:
    """`pairs` and `lists` a scenario; lists have 1 to 3 losers."""
    uid = 0
    for scenario, turns in RMB_SCENARIOS.items():
        before = [
            {"content": f"turn {t}", "language": "English", "role": role}
            for t in range(turns)
            for role in ("user", "assistant")
        ]
        for kind, size in (("Pairwise_set", pairs), ("BoN_set", lists)):
            records: Records = []
            for _ in range(size):
                uid += 1
                question = [*before, {"content": f"{scenario} {uid}", "language": "English", "role": "user"}]
                own: dict[str, Any] = {"conversation_input": question, "category_path": f"{kind}/{scenario}"}
                if kind == "Pairwise_set":
                    own |= {
                        "pair_uid": str(uid),
                        "chosen": {"llm_name": "a", "answer": f"good {uid}", "score": 5.0},
                        "reject": {"llm_name": "b", "answer": f"bad {uid}", "score": 4.5},
                    }
                else:
                    losers = [{"llm_name": "b", "answer": f"bad {uid} {n}"} for n in range(1 + uid % 3)]
                    own |= {
                        "bon_uid": str(uid),
                        "bon_best": {"llm_name": "a", "answer": f"best {uid}"},
                        "loser_list": losers,
                    }
                records.append(own)
            array(folder / "RMB_dataset" / kind / f"{scenario}.json", records)


def rm_bench_records(part: str, size: int) -> Records:
    return [
        {
            "id": n,
            "prompt": f"{part} question {n}",
            "subset": part,
            "chosen": [f"right {n} {style}" for style in rm_bench.STYLES],
            "rejected": [f"wrong {n} {style}" for style in rm_bench.STYLES],
        }
        for n in range(size)
    ]


def write_rm_bench(folder: Path, sizes: Mapping[str, int]) -> None:
    for part, size in sizes.items():
        array(folder / "data" / f"{part}_filtered.json", rm_bench_records(part, size))


RM_BENCH_SIZES = {"chat": 129, "code": 228, "math": 529, "safety-refuse": 284, "safety-response": 157}
JUDGEBENCH_SOURCES = {
    "mmlu-pro-law": 80,
    "mmlu-pro-physics": 74,
    "livebench-reasoning": 98,
    "livebench-math": 56,
    "livecodebench": 42,
}  # of the gpt split


def judgebench_records(sizes: Mapping[str, int] = JUDGEBENCH_SOURCES) -> Records:
    sources = [source for source, size in sizes.items() for _ in range(size)]
    return [
        {
            "pair_id": f"pair {n}",
            "original_id": n,
            "source": source,
            "question": f"question {n}",
            "response_model": "gpt-4o-2024-05-13",
            "response_A": f"answer A {n}",
            "response_B": f"answer B {n}",
            "label": "A>B" if n % 2 else "B>A",
        }
        for n, source in enumerate(sources)
    ]


def write_judgebench(folder: Path, sizes: Mapping[str, int] = JUDGEBENCH_SOURCES) -> Records:
    records = judgebench_records(sizes)
    jsonl(folder / "data" / "dataset=judgebench,response_model=gpt-4o-2024-05-13.jsonl", records)
    return records


def write_seven(folder: Path, *, small: bool = True) -> None:
    """All seven below a data directory: a few items of each part, or as many as the real ones have (but of RMB)."""
    sizes = rewardbench_sizes()
    write_rewardbench(folder / "rewardbench", dict.fromkeys(sizes, 3) if small else sizes)
    write_rewardbench2(
        folder / "rewardbench2", dict.fromkeys(rewardbench2.SIZES, 6) if small else rewardbench2.SIZES
    )
    winners = ("model_a", "model_b", "tie", "model_b", "tie (bothbad)")
    write_ppe_preference(folder / "ppe-preference", (winners * 3_208)[: 20 if small else 16_038])
    write_ppe_correctness(
        folder / "ppe-correctness",
        dict.fromkeys(ppe_correctness.SIZES, 4) if small else ppe_correctness.SIZES,
    )
    write_rmb(folder / "rmb", 5, 4)
    write_rm_bench(folder / "rm-bench", dict.fromkeys(RM_BENCH_SIZES, 4) if small else RM_BENCH_SIZES)
    write_judgebench(
        folder / "judgebench", dict.fromkeys(JUDGEBENCH_SOURCES, 4) if small else JUDGEBENCH_SOURCES
    )
