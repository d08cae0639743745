# Needs: what was trained, predicted, evaluated and tabulated, and the records beside it.
# Makes: <results>/tables/provenance.csv - commit, configuration, seed, device, versions and digests
# of what was read and made - and configuration.yaml, for the report. A record is written by each program beside its results
# and is no output: `make verify` compares both.


rule tabulate_provenance:
    input:
        train=rules.train.input,
        predict=rules.predict.input,
        audit=rules.audit.input,
        tables=rules.tables.input,
    output:
        table=table("provenance", "Where the results come from"),
        config=report(
            f"{RESULTS}/tables/configuration.yaml",
            caption="../report/configuration.rst",
            category="Tables",
            labels={"shows": "The whole configuration"},
        ),
    log:
        f"{RESULTS}/logs/tabulate_provenance.log",
    conda:
        "../../envs/tables.yaml"
    params:
        code=code_digest("tabulate_provenance"),
    shell:
        "python $HPALOC/tabulate_provenance.py --results results --made {input}"
        " --table {output.table} --config {output.config} > {log} 2>&1"
