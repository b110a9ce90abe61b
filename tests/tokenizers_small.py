"""Small tokenizers in the formats of Llama 3 and Qwen3, as directories that transformers loads too.

The vocabularies are trained on a few sentences; everything else (splitting, special tokens, post-processor,
configuration, the manner of the template) is as in the real ones. The same call writes the same bytes.
"""

import json
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TEXTS = [
    "Tea warms and calms, they say, but coffee wakes the house before the dogs do.",
    "Which of the two answers is better, and why? The first is shorter; the second gives its reasons.",
    "If Jane has 12 apples and gives 5 of them to her friends, she has 12 - 5 = 7 apples left.",
    "def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))  # 3\n",
    'The function returns {"name": "weather", "arguments": {"city": "Reykjavík", "days": 3}} as JSON.',
    "You are a helpful assistant. Answer in one sentence, and don't invent what you can't know.",
    "Größe, naïveté, Ærø, œuvre; Чай согревает; 茶能暖身; お茶は体を温める; الشاي يدفئ; चाय 🍵 गर्म 👩‍💻.",
    "A list:\n\n* one thing,\n* another thing,\n* and the last thing.\n\n## Heading\n\n| a | b |\n|---|---|\n",
]
# What the tokenizers of Llama 3 and of Qwen3 split text by, before merging; they differ in the length of numbers.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBER| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = _SPLIT.replace("NUMBER", r"\p{N}{1,3}")
QWEN3_SPLIT = _SPLIT.replace("NUMBER", r"\p{N}")

LLAMA3_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)
QWEN3_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_pad|>")
# Tokens that a text may hold: transformers keeps them whole, and calls them not special.
QWEN3_ADDED = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_pad|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)

LLAMA3_TEMPLATE = """\
{{- bos_token }}
{%- set today = date_string if date_string is defined else strftime_now("%d %b %Y") %}
{%- set start = 1 if messages[0]['role'] == 'system' else 0 %}
{%- macro header(role) %}
    {{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}
{%- endmacro %}

{{- header('system') }}
{%- if tools %}
    {{- 'Environment: ipython\\n' }}
{%- endif %}
{{- 'Cutting Knowledge Date: December 2023\\nToday Date: ' + today + '\\n\\n' }}
{%- if tools %}
    {{- 'Call a function by a JSON object with its name and its parameters, and nothing else.\\n\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) + '\\n\\n' }}
    {%- endfor %}
{%- endif %}
{%- if start %}
    {{- messages[0]['content'] | trim }}
{%- endif %}
{{- '<|eot_id|>' }}
{%- for message in messages[start:] %}
    {%- if message.tool_calls is defined %}
        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception('one tool call at a time') }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- header('assistant') }}
        {{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}<|eot_id|>' }}
    {%- elif message['role'] in ('tool', 'ipython') %}
        {{- header('ipython') }}
        {%- if message.content is mapping %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- '<|eot_id|>' }}
    {%- elif message['role'] in ('system', 'user', 'assistant') %}
        {{- header(message['role']) + message['content'] | trim + '<|eot_id|>' }}
    {%- else %}
        {{- raise_exception('no such role: ' + message['role']) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- header('assistant') }}
{%- endif %}
"""

QWEN3_TEMPLATE = """\
{%- set ns = namespace(question=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- set ns.question = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- if tools or messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content }}
    {%- endif %}
    {%- if tools %}
        {{- '\\n\\n# Tools\\n\\n<tools>' }}
        {%- for tool in tools %}
            {{- '\\n' + tool | tojson }}
        {%- endfor %}
        {{- '\\n</tools>\\n\\nCall one inside <tool_call></tool_call>.' }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'system' and loop.first %}
        {%- continue %}
    {%- elif message.role in ('user', 'system') %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set thought = message.reasoning_content or '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.question and (loop.last or thought) %}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {%- generation %}
        {{- content }}
        {%- endgeneration %}
        {%- for call in message.tool_calls or [] %}
            {%- set call = call.function or call %}
            {{- '\\n' if content or not loop.first else '' }}
            {{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' + call.arguments | tojson + '}' }}
            {{- '\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user' if loop.first or loop.previtem.role != 'tool' else '' }}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {{- '<|im_end|>\\n' if loop.last or loop.nextitem.role != 'tool' else '' }}
    {%- else %}
        {{- raise_exception('no such role: ' + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def llama3_directory(path: Path, *, template: str = LLAMA3_TEMPLATE, vocab_size: int = 600) -> Path:
    """Writes a tokenizer in the format of Llama 3.2 to `path`: BOS by the post-processor, no pad token named."""
    tokenizer = _byte_level(LLAMA3_SPLIT, vocab_size - len(LLAMA3_SPECIAL))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in LLAMA3_SPECIAL])
    bos = LLAMA3_SPECIAL[0]
    adds_bos = processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos}:1 $B:1",
        special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), adds_bos])  # type: ignore[assignment]
    config = {
        "bos_token": bos,
        "eos_token": "<|eot_id|>",
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    named = {"bos_token": {"content": bos, **_PLAIN}, "eos_token": {"content": "<|eot_id|>", **_PLAIN}}
    return _write(path, tokenizer, config | {"chat_template": template}, {"special_tokens_map.json": named})


def qwen3_directory(path: Path, *, template: str = QWEN3_TEMPLATE, vocab_size: int = 600) -> Path:
    """Writes a tokenizer in the format of Qwen3 to `path`: no BOS, NFC, the template in a file of its own."""
    tokenizer = _byte_level(QWEN3_SPLIT, vocab_size - len(QWEN3_SPECIAL) - len(QWEN3_ADDED))
    tokenizer.normalizer = normalizers.NFC()  # type: ignore[assignment]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in QWEN3_SPECIAL])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in QWEN3_ADDED])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)  # type: ignore[assignment]
    added = {
        tokenizer.token_to_id(token): {"content": token, **_PLAIN, "special": token in QWEN3_SPECIAL}
        for token in (*QWEN3_SPECIAL, *QWEN3_ADDED)
    }
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(id): token for id, token in sorted(added.items())},
        "additional_special_tokens": list(QWEN3_SPECIAL[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    return _write(path, tokenizer, config, {"chat_template.jinja": template})


_PLAIN = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}


def _byte_level(split: str, vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer of at most `vocab_size` ids (no fewer than the 256 bytes)."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    return tokenizer


def _write(path: Path, tokenizer: Tokenizer, config: dict, others: dict[str, object]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    for name, value in {"tokenizer_config.json": config, **others}.items():
        text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        (path / name).write_text(text, encoding="utf-8")
    return path
