"""The flags that the commands which load a reward model have in common."""

import argparse


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Which model, and how it computes."""
    parser.add_argument("--model", required=True, metavar="DIR", help="a Hugging Face directory, or a hub id")
    add_scoring_flags(parser)


def add_scoring_flags(parser: argparse.ArgumentParser, *, too_long: str = "refuse") -> None:
    """How models compute."""
    parser.add_argument("--revision", metavar="COMMIT", help="the commit, for a hub id")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of weights and computation (float32)"
    )  # fmt: skip
    parser.add_argument(
        "--max_length", type=int, default=0, metavar="TOKENS",
        help="most tokens of a conversation (the model's context, at most 4096)",
    )  # fmt: skip
    parser.add_argument(
        "--too_long", choices=("refuse", "truncate_left_of_prompt"), default=too_long,
        help=f"what becomes of longer ones: refused, or without the oldest part of the prompt ({too_long})",
    )  # fmt: skip
    parser.add_argument(
        "--allow_special_text", action="store_true",
        help="let a special token written out in a text become that token, as transformers does; "
        "otherwise such an item is refused",
    )  # fmt: skip
    parser.add_argument(
        "--mesh", type=mesh, default=(-1, 1, 1), metavar="DATA,FSDP,TENSOR",
        help="how devices share the model (-1,1,1: each holds it whole)",
    )  # fmt: skip
    parser.add_argument(
        "--batch_tokens", type=int, default=8192, metavar="TOKENS", help="tokens computed in one call (8192)"
    )


def mesh(text: str) -> tuple[int, int, int]:
    """ "1,2,4" -> (1, 2, 4). Raises ValueError on anything but three whole numbers."""
    data, fsdp, tensor = (int(size) for size in text.split(","))
    return data, fsdp, tensor
