"""The command: a corpus and what can be done with it, in one go; each wrong input is one line and exit code 2."""

import json
import os

import pytest

from rewardscale import build
from rewardscale.data.chat import load_chat_tokenizer
from rewardscale.data.corpus import open_corpus
from rewardscale.data.tokenised import TokenStore, build_view, open_view
from tests.tokenizers_small import qwen3_directory


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("build") / "sums.jsonl"
    lines = [
        {"prompt": f"What is {i} + {i}?", "chosen": f"It is {2 * i}.", "rejected": f"It is {3 * i + 1}."}
        for i in range(40)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, lines[0]]) + '{"prompt": "cut\n')
    return path


@pytest.fixture(scope="module")
def corpus(source):
    out = source.parent / "out"
    assert build.main([f"--source={source}", f"--out={out}", "--engine=inline"]) == 0
    return out


def test_the_closing_lines_say_what_became_of_each_record(source, tmp_path, capsys):
    assert build.main([f"--source={source}", f"--out={tmp_path / 'out'}", "--engine=inline"]) == 0
    first, where, last = capsys.readouterr().out.splitlines()
    assert first == (
        "sums: 41 comparisons read, 41 after pairing, 40 kept; refused: 1 not_json; dropped: 1 duplicate"
    )
    assert where.endswith("quarantine.jsonl") and "40 comparisons" in last


def test_a_view_for_a_backbone_is_the_same_by_stages_and_at_once(corpus, tmp_path, capsys):
    tokenizer = qwen3_directory(tmp_path / "tokenizer")
    assert build.main([str(corpus), f"--tokenise={tokenizer}", "--engine=inline"]) == 0
    (folder,) = (corpus / "corpus" / "views").iterdir()  # and nothing of the stages is left
    assert f"view    {folder}" in capsys.readouterr().out
    staged = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    os.rename(folder, tmp_path / "staged")
    view = build_view(open_corpus(corpus / "corpus"), load_chat_tokenizer(tokenizer))
    assert {p.name: p.read_bytes() for p in view.directory.iterdir() if p.is_file()} == staged
    assert open_view(view.directory).key == folder.name and len(TokenStore(view)) == 40


def test_page_and_subset(corpus, capsys):
    assert build.main([str(corpus), "--describe"]) == 0
    assert "sums" in (corpus / "describe.html").read_text()
    assert build.main([str(corpus), "--explain=20"]) == 0
    out = capsys.readouterr().out
    assert "20 pairs out of 20" in out and "100.0%" in out


def test_sources_are_listed_with_their_licences(capsys):
    assert build.main(["--sources"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("hh-rlhf") and "[MIT]" in line for line in lines) and len(lines) > 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source=nowhere.jsonl"], "nowhere.jsonl"),
        (["--source=hh-rlfh=x.jsonl"], "did you mean 'hh-rlhf'"),
        (["--source=helpsteer3"], "--source=helpsteer3@<commit>"),
        (["--source=prm800k=."], "no preferences"),
        (["--source={source}", "--engine=spark"], "process"),
        (["--source={source}", "--config.near.treshold=0.5"], "did you mean 'config.near.threshold'"),
        (["--source={source}", "--out={corpus}", "--config.conflicts=first"], "another config"),
        (["--describe"], "a finished corpus is named first"),
        (["{corpus}", "--describe", "--source={source}"], "a finished corpus is named first"),
        (["{source}", "--describe"], "is no finished corpus"),
        (["{corpus}", "--explain=1000"], "1000 were asked for"),
        (["{corpus}", "--explain=5", "--level=gold"], "holds raw"),
        (["{corpus}", "--tokenise=/nowhere"], "/nowhere"),
    ],
)
def test_wrong_input_is_one_line(arguments, message, source, corpus, tmp_path, capsys):
    given = [text.format(source=source, corpus=corpus) for text in arguments]
    if not any("--out" in text or str(corpus) in text for text in given):
        given.append(f"--out={tmp_path / 'out'}")
    if given[-1].startswith("--out") and "--describe" in given:
        given.pop()
    assert build.main(given) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("error: ") == 1 and "Traceback" not in error
    assert not (tmp_path / "out" / "build.json").exists()
