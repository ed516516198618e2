"""Generates the JSON of the dashboards: `python -m grafana.build [FOLDER]`."""

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import deliverability, health, operations, overview

DASHBOARDS = Path(__file__).parent / "dashboards"


def main(folder: Path) -> None:
    """Write every dashboard to a file in *folder*, named after its uid."""
    folder.mkdir(parents=True, exist_ok=True)
    for module in (overview, deliverability, operations, health):
        dashboard = module.dashboard().build()
        for number, panel in enumerate(dashboard.panels, start=1):
            panel.id_val = number
        text = json.dumps(dashboard, cls=JSONEncoder, indent=2, sort_keys=True)
        (folder / f"{dashboard.uid}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DASHBOARDS)
