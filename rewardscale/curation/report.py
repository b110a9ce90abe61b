"""The run's report."""

from pathlib import Path
from typing import Any

from rewardscale import atomic
from rewardscale.config.curation import CurationConfig
from rewardscale.curation import outcomes, steps
from rewardscale.curation.inputs import Inputs
from rewardscale.curation.workbench import bill
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.levels import Level


def write_report(
    config: CurationConfig,
    inputs: Inputs,
    workdir: Path,
    made: list[Level],
    without_people: tuple[CurationConfig, Path] | None,
) -> dict[str, Any]:
    """Writes report.json into `workdir`; returns it."""
    final = outcomes.outcome(inputs, config, workdir)
    record = {
        "name": config.name,
        "levels": [outcomes.describe_level(level, inputs, final.state) for level in made],
        "steps": steps.read_steps(workdir),
        "bill": bill(Ledger(workdir / "ledger").read(), config),
    }
    if without_people is not None:
        record["no_humans"] = {
            "steps": steps.read_steps(without_people[1]),
            "bill": bill(Ledger(without_people[1] / "ledger").read(), without_people[0]),
        }
    atomic.write_json(workdir / "report.json", record)
    return record
