"""``snakemake`` that asks SLURM every second: the plugin waits ten more seconds each time it asks,
and no option of its changes that. For tests of small jobs."""

import sys

import snakemake_executor_plugin_slurm
from snakemake.cli import main

snakemake_executor_plugin_slurm.Executor.next_seconds_between_status_checks = property(
    lambda self: 1, lambda self, seconds: None
)
sys.exit(main())
