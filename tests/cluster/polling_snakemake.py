"""``snakemake`` that asks SLURM every second: the plugin waits ten more seconds each time it asks,
and no option of its changes that. For tests of small jobs."""

import signal
import sys

import snakemake_executor_plugin_slurm
from snakemake.cli import main

snakemake_executor_plugin_slurm.Executor.next_seconds_between_status_checks = property(
    lambda self: 1, lambda self, seconds: None
)
# What a shell has put into the background ignores Ctrl-C, and so do the programs that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
