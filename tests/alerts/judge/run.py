"""One history, from its events to what fired."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from alerts.judge.history import History
from alerts.judge.player import Played, Player
from alerts.judge.promstore import Server
from alerts.judge.rules import Firing, Rules
from prometheus import Binaries

ROOT = Path(__file__).parents[3]
RULE_FILES = [ROOT / "deploy" / "prometheus" / f"comms-exporter.{kind}.yml" for kind in ("rules", "alerts")]
ALERTMANAGER = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"


@dataclass(frozen=True)
class Result:
    """What came of a history."""

    firings: list[Firing]
    played: Played


def judge(history: History, rules: Rules, binaries: Binaries, *, step: float = 60, alerts_from: float = 0) -> Result:
    """Play *history* and return the alerts that *rules* fire from *alerts_from* on, with an evaluation every *step*."""
    with tempfile.TemporaryDirectory(prefix="judge-") as name:
        folder = Path(name)
        played = Player(history, rules.names, folder=folder).play()
        with Server(binaries, folder / "prometheus") as server:
            server.write(played.series)
            rules.record(server, played, history.start, history.end, step)
            firings = rules.fire(server, played, max(history.start, alerts_from), history.end, step)
    return Result(firings, played)
