"""One history, from its events to what fired."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from alerts.judge.history import COARSE, History
from alerts.judge.player import Played, Player
from alerts.judge.promstore import Server, VictoriaMetrics
from alerts.judge.rules import Firing, Rules
from alerts.judge.texts import annotations
from prometheus import Binaries

ROOT = Path(__file__).parents[3]
RULE_FILES = [ROOT / "deploy" / "prometheus" / f"comms-exporter.{kind}.yml" for kind in ("rules", "alerts")]
ALERTMANAGER = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"


@dataclass(frozen=True)
class Result:
    """What came of a history; *texts* are the annotations of each firing, where they were asked for."""

    firings: list[Firing]
    played: Played
    texts: list[dict[str, str]] = field(default_factory=list)


def judge(
    history: History,
    rules: Rules,
    binaries: Binaries,
    *,
    victoria_metrics: Path | None = None,
    step: float = 60,
    alerts_from: float = 0,
    texts: bool = False,
) -> Result:
    """Play *history* and return the alerts that *rules* fire from *alerts_from* on, with an evaluation every *step*.

    With the program *victoria_metrics*, that evaluates the rules in place of Prometheus.
    """
    with tempfile.TemporaryDirectory(prefix="judge-") as name:
        folder = Path(name)
        played = Player(history, rules.names).play()
        store = folder / "store"
        with VictoriaMetrics(victoria_metrics, store) if victoria_metrics else Server(binaries, store) as server:
            server.write(played.series)
            begin = history.start
            spans = [(begin, history.end, step)]
            if history.fine_from > begin:
                turns = (history.fine_from - begin) // COARSE
                fine = begin + turns * COARSE
                spans = [(begin, fine - COARSE, COARSE), (fine, history.end, step)]
            rules.record(server, played, spans)
            if alerts_from > begin:
                begin += (alerts_from - begin) // step * step
            firings = rules.fire(server, played, begin, history.end, step)
            told = annotations(binaries, server, firings, folder) if texts else []
    return Result(firings, played, told)
