"""Curates preference pairs: judges and people say which response is better, reward models extend that to all pairs.

    python -m rewardscale.curate --config=curate.py                       # a planted world, simulated annotators
    python -m rewardscale.curate plan --config=curate.py                  # calls, tokens, money, hours; spends nothing
    python -m rewardscale.curate status --workdir=runs/curate-planted     # how far it is, and its bill
    python -m rewardscale.curate people --config=mine.py --invite=ann     # an annotator's link to the page
    python -m rewardscale.curate people --config=mine.py --serve          # the page where people judge

run (the default) does stage 0 (a seed that judges and people label), stage 1 (train a reward model, find what it gets
wrong, have that judged, repeat) and stage 2 (the rest of the pool, without people) of Skywork-Reward-V2 (arXiv
2507.01352), then writes levels: raw, filtered, corrected, gold, no_humans, placebos, and snapshots as filtered@iter3.
A sweep trains on them: --config=sweep.py:curated --config.data.curated.workdir=runs/curate-planted

Everything lands in --workdir (default runs/<name>): ledger/ holds every verdict, calls/ every paid answer, report.html
what came out. Kill it whenever you like: the same command goes on where it stopped and pays for nothing twice. Any
value of the config can be overridden: --config.iterations=4 --config.people_per_iteration=100

Exit codes: 0 done, 2 bad input or no budget left, 3 waiting for people, 130 interrupted.
"""

import argparse
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rewardscale import exits
from rewardscale.cli import exit_code
from rewardscale.config import DATA_VARIABLE, ConfigError
from rewardscale.config.curation import CurationConfig
from rewardscale.sweeps import configfile

_LOOK_AGAIN = 30.0  # seconds


def main(arguments: list[str] | None = None) -> int:
    """Parses flags, does one of the steps, reports. Returns the exit code."""
    options, overrides = _parse(sys.argv[1:] if arguments is None else arguments)
    commands = {"run": _run, "plan": _plan, "status": _status, "people": _people}
    return exit_code(
        lambda: commands[options.command](options, overrides), kept="nothing written so far is lost"
    )


def _run(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    from rewardscale.curation import pipeline
    from rewardscale.curation.annotators.label_studio import LabelStudioError
    from rewardscale.curation.annotators.llm.budget import BudgetSpent
    from rewardscale.curation.annotators.llm.client import EndpointError
    from rewardscale.curation.workbench import Waiting

    config, workdir = _config(options, overrides)
    bars, told = _Bars(), ""
    while True:
        try:
            report = pipeline.run(config, workdir, data_dir=options.data_dir, progress=bars)
            break
        except Waiting as reason:
            bars.close()
            if str(reason) != told:
                print(told := str(reason), flush=True)
            if not options.wait:
                print(_how_people_judge(config, options, overrides))
                return exits.WAITING
            time.sleep(_LOOK_AGAIN)
        except (BudgetSpent, EndpointError, LabelStudioError) as error:
            raise ConfigError(str(error)) from error
        finally:
            bars.close()
    print(closing(report, config))
    print(f"report  {workdir / 'report.html'}")
    return 0


def _how_people_judge(config: CurationConfig, options: argparse.Namespace, overrides: dict[str, str]) -> str:
    if config.people.kind == "page":
        flags = [
            f"--config={options.config}",
            *(f"--config.{key}={value}" for key, value in overrides.items()),
        ]
        if options.workdir:
            flags.append(f"--workdir={options.workdir}")
        command = shlex.join(["python", "-m", "rewardscale.curate", "people", "--serve", *flags])
        where = f"{command} starts their page"
    else:
        where = f"they judge at {config.people.label_studio.url}"
    return f"{where}; the same command as now goes on when they are done (with --wait by itself)"


def _plan(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    from rewardscale.curation.plan import plan, plan_text

    config, workdir = _config(options, overrides)
    print(plan_text(plan(config, workdir, data_dir=options.data_dir), config))
    return 0


def _status(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    from rewardscale.curation import steps
    from rewardscale.data.ledger.ledger import Ledger

    workdir = options.workdir or _config(options, overrides)[1]
    if not (workdir / "config.json").is_file():
        raise ConfigError(f"{workdir} holds no curation run; the same command without `status` starts one")
    wanted = json.loads((workdir / "config.json").read_text())["iterations"]
    for folder in (workdir, workdir / "no_humans"):
        if not folder.exists():
            continue
        done = steps.read_steps(folder)
        verdicts = Ledger(folder / "ledger").read()
        print(f"{folder}: {len(done)} of {wanted + 2} steps done")
        for kind, count in verdicts["kind"].value_counts().sort("kind").iter_rows():
            print(f"  {count:>9,} verdicts of kind {kind}")
    finished = (workdir / "report.json").is_file()
    print(f"report  {workdir / 'report.html'}" if finished else "no report yet: run the same config again")
    return 0


def _people(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    from rewardscale.curation.annotators.people import backend

    config, workdir = _config(options, overrides)
    if config.people.kind != "page":
        raise ConfigError(f"people.kind is {config.people.kind!r}: the page is for people.kind='page'")
    ledger = workdir / "ledger"
    url = options.public_url or f"http://{options.host}:{options.port}"
    if options.invite:
        print(backend.invite(ledger, options.invite, role="lead" if options.lead else "annotator", url=url))
    elif options.revoke:
        backend.revoke(ledger, options.revoke)
        print(f"{options.revoke} is out; what they judged stays")
    elif options.close is not None:
        with backend.PageBackend(ledger) as page:
            page.close(options.close)
        print(f"round {options.close} is closed: what is judged by now counts; run the curation again")
    elif options.serve:
        backend.serve(ledger, host=options.host, port=options.port, public_url=options.public_url)
    else:
        print(backend.status_text(ledger))
    return 0


def closing(report: dict[str, Any], config: CurationConfig) -> str:
    """A line a level, and what was paid."""
    out = [
        f"{'level':<18} {'pairs':>8} {'kept':>6} {'flipped':>8} {'held-out gold agrees':>24} {'true':>6} {'cost':>10}"
    ]
    for level in report["levels"]:
        if "@" in level["name"]:
            continue
        held, truth = level["held_out"], level.get("truth", {"share": None})
        agrees = f"{held['share']:.3f} [{held['low']:.3f}, {held['high']:.3f}]" if held["n"] else "-"
        true = "-" if truth["share"] is None else f"{truth['share']:.3f}"
        out.append(
            f"{level['name']:<18} {level['pairs']:>8,} {level['keep_rate']:>6.1%} {level['flipped']:>8,} {agrees:>24} "
            f"{true:>6} {level['cost']:>10.2f}"
        )
    for line in report["bill"]:
        who = f"{line['annotators']} people" if line["who"] == "people" else line["who"]
        out.append(
            f"paid    {who}: {line['verdicts']:,} verdicts, {line['money']:.2f} {config.cost_unit}, "
            f"{line['minutes']:,.0f} min"
        )
    return "\n".join(out)


class _Bars:
    """A progress bar for each thing that is under way."""

    def __init__(self) -> None:
        self._bars: dict[str, tqdm] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._bars:
            self.close()
            self._bars[what] = tqdm(total=total or None, desc=what, delay=0.5)
        self._bars[what].update(done - self._bars[what].n)

    def close(self) -> None:
        """Ends them."""
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()


def _config(options: argparse.Namespace, overrides: dict[str, str]) -> tuple[CurationConfig, Path]:
    config, _ = configfile.load(options.config, overrides, kind=CurationConfig)
    if options.data_dir is None and DATA_VARIABLE in os.environ:
        options.data_dir = Path(os.environ[DATA_VARIABLE])
    return config, options.workdir or Path("runs") / config.name


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    parser = argparse.ArgumentParser(
        prog="python -m rewardscale.curate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False, epilog=exits.AGAIN_HELP,
    )  # fmt: skip
    add = parser.add_argument
    add("command", nargs="?", default="run", choices=("run", "plan", "status", "people"), help="default: run")
    add(
        "--config",
        default="curate.py",
        metavar="FILE[:VARIANT]",
        help="a bare name is looked for in configs/ (default: %(default)s)",
    )
    add("--workdir", type=Path, help="folder of the run (default: runs/<name>)")
    add(
        "--data_dir",
        type=Path,
        help="where real data lies (default: the environment variable REWARDSCALE_DATA)",
    )
    add(
        "--wait",
        action="store_true",
        help="run: while people judge, look every half minute whether they are done",
    )
    people = parser.add_argument_group("people", "without any of these: how far they are")
    add = people.add_argument
    add("--serve", action="store_true", help="start the page where they judge, until Ctrl-C")
    add("--invite", metavar="NAME", help="print NAME's link to the page (once: a second call makes another)")
    add("--lead", action="store_true", help="with --invite: one who sees the dashboard")
    add("--revoke", metavar="NAME", help="end NAME's link")
    add("--close", type=int, metavar="ROUND", help="end a round: what is not judged by now is not waited for")
    add("--host", default="127.0.0.1", help="where to listen (default: %(default)s, this machine alone)")
    add("--port", type=int, default=8010, help="(default: %(default)s)")
    add(
        "--public_url",
        default="",
        metavar="URL",
        help="how browsers reach the page, say through a proxy with https",
    )
    return configfile.parse_arguments(parser, arguments, example="--config.iterations=4")


if __name__ == "__main__":
    sys.exit(main())
