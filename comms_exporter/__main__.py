"""`python -m comms_exporter` is `comms-exporter`."""

import sys

from comms_exporter.cli import main

sys.exit(main())
