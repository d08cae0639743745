# From raw images to every figure and table of "Extracting Cellular Location of Human
# Proteins Using Deep Learning". What it makes: README.md; the stages: workflow/rules/.

from snakemake.utils import min_version

min_version("9.0")


configfile: "config.yaml"


include: "workflow/rules/common.smk"


# Only with --sdm apptainer.
container: config["container"]


include: "workflow/rules/fetch.smk"
include: "workflow/rules/sources.smk"
include: "workflow/rules/arrays.smk"
include: "workflow/rules/audit.smk"
include: "workflow/rules/folds.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/thresholds.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/provenance.smk"


report: "workflow/report/workflow.rst"


rule all:
    default_target: True
    input:
        rules.predict.input,
        rules.audit.input,
        rules.tables.input,
        rules.figures.input,
        rules.tabulate_provenance.output,


rerun_for_missing_inputs()
