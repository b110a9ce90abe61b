"""Serves a reward model over HTTP; requests that come together are scored together.

    python -m rewardscale.serve --model=DIR
    python -m rewardscale.serve --model=DIR --host=0.0.0.0 --port=8000 --token_file=token.txt --dtype=bfloat16

DIR is a Hugging Face directory of a Llama or Qwen3 reward model (…ForSequenceClassification) with its tokenizer
and chat template. Ask it:

    curl localhost:8000/score -d '{"prompt": "Is tea warm?", "responses": ["Yes.", "No."]}'
    curl localhost:8000/classify -d '{"messages": [{"role": "user", "content": "Is tea warm?"},
                                                   {"role": "assistant", "content": "Yes."}]}'
    curl localhost:8000/get_reward -d '{"query": ["a conversation as text, by the model'"'"'s chat template"]}'
    curl localhost:8000/health       # 200 when ready, 503 while loading and while stopping
    curl localhost:8000/metrics      # Prometheus
    curl localhost:8000/version      # model, hashes of template and tokenizer, the token that rewards are read at

Rewards are raw logits, the same whatever else is scored at that time. /classify is in vLLM's shape, /get_reward in
OpenRLHF's. A refusal is {"error": {"message", "type", "code"}}: 400 not understood, 401 no token, 413 body too large,
422 cannot be scored (empty, too long, ...), 503 busy, loading or stopping (Retry-After), 504 timeout.

SIGTERM or Ctrl-C: no further request is accepted, those accepted are answered, exit code 0. Exit code 2: bad input or
settings. With a token (--token_file, or the environment variable REWARDSCALE_TOKEN) all but /health ask for it.
More: docs/scoring.md
"""

import argparse
import os
import sys
from pathlib import Path

from rewardscale import exits
from rewardscale.cli import exit_code
from rewardscale.config import ConfigError
from rewardscale.evaluation.flags import add_model_flags


def main(arguments: list[str] | None = None) -> int:
    """Parses flags and serves. Returns the exit code."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    return exit_code(lambda: _serve(options))


def _serve(options: argparse.Namespace) -> int:
    from rewardscale.evaluation import server, service
    from rewardscale.training.compilation import use_cache

    use_cache()
    flags = vars(options)
    limits = service.Limits(
        body_bytes=flags.pop("max_body_bytes"),
        rewards=flags.pop("max_items"),
        requests=flags.pop("max_requests"),
        queue_tokens=flags.pop("max_queue_tokens"),
        seconds=flags.pop("timeout"),
        grace_seconds=flags.pop("grace"),
    )
    token = _token(flags.pop("token_file"))
    wait_seconds = flags.pop("wait_ms") / 1000
    server.serve(server.Settings(**flags, limits=limits, token=token, wait_seconds=wait_seconds))
    return 0


def _token(path: Path | None) -> str:
    """The bearer token of the file, or of the environment; "" where there is neither."""
    if path is None:
        return os.environ.get("REWARDSCALE_TOKEN", "").strip()
    token = path.read_text().strip()
    if not token:
        raise ConfigError(f"--token_file={path} is empty")
    return token


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rewardscale.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False, epilog=exits.AGAIN_HELP,
    )  # fmt: skip
    add_model_flags(parser)
    flag = parser.add_argument
    flag("--name", default="", help="the model's name in answers (the directory's)")
    flag("--host", default="127.0.0.1", help="address to listen at (127.0.0.1: this machine alone)")
    flag("--port", type=int, default=8000, help="port to listen at; 0: any free one (8000)")
    flag(
        "--token_file", type=Path, metavar="FILE", help="a file that holds the bearer token clients must give"
    )
    flag(
        "--wait_ms",
        type=float,
        default=5.0,
        help="how long a request waits for others to share its batch (5)",
    )
    flag("--max_items", type=int, default=512, help="most rewards in one request (512)")
    flag("--max_body_bytes", type=int, default=8 * 2**20, help="largest body of a request (8 MiB)")
    flag("--max_requests", type=int, default=1024, help="most requests accepted and not yet answered (1024)")
    flag(
        "--max_queue_tokens",
        type=int,
        default=1_000_000,
        help="most tokens that wait to be scored (1,000,000)",
    )
    flag("--timeout", type=float, default=60.0, help="seconds from a request to its answer (60)")
    flag("--grace", type=float, default=30.0, help="seconds for accepted requests after SIGTERM (30)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
