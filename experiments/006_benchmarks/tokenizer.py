"""A tokenizer folder for the small model: GPT-NeoX-20B's tokenizer with ChatML: python tokenizer.py DATA_DIR FOLDER

DATA_DIR/tokenizers/gpt-neox-20b_tokenizer.json is EleutherAI's (Apache-2.0).
"""

import json
import shutil
import sys
from pathlib import Path

CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def main(data: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(data / "tokenizers" / "gpt-neox-20b_tokenizer.json", folder / "tokenizer.json")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "extra_special_tokens": ["<|im_start|>"],
        "eos_token": "<|im_end|>",
        "pad_token": "<|padding|>",
        "unk_token": "<|endoftext|>",
        "chat_template": CHATML,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
