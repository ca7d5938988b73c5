"""What holds for the whole suite."""

from __future__ import annotations

import signal

# A suite started in the background inherits an ignored SIGINT, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
