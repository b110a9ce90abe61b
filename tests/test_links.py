"""Every relative link and picture of the pages leads to a file of the repository."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def pages() -> list[Path]:
    tracked = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    named = [ROOT / line for line in tracked.stdout.splitlines()]
    return named or [p for p in ROOT.rglob("*.md") if ".venv" not in str(p)]


def test_links_lead_somewhere():
    dead = []
    for page in pages():
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in LINK.findall(text):
            if "://" in target or target.startswith(("#", "mailto:")):
                continue
            if not (page.parent / target.split("#")[0]).exists():
                dead.append(f"{page.relative_to(ROOT)}: {target}")
    assert not dead


def test_results_name_every_experiment():
    text = (ROOT / "docs" / "results.md").read_text()
    for folder in sorted((ROOT / "experiments").iterdir()):
        if folder.is_dir() and folder.name != "000_default_sweep" and not folder.name.startswith("__"):
            assert f"experiments/{folder.name}/" in text, folder.name
