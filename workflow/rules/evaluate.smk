# Needs: predictions and labels of the test source, thresholds.
# Makes: <results>/evaluation/<recipe>/<source>/ - scores of fold 1 and of the mean of the folds by
# threshold strategy, the same without what was seen in training, scores of each class, constant
# answers, and the precision-recall curves.

EVALUATION = f"{RESULTS}/evaluation/{{recipe}}/{{source}}"


rule evaluate:
    input:
        arrays=ancient(lambda wildcards: f"{arrays_folder(wildcards.source)}/index.parquet"),
        arrays_digest=lambda wildcards: f"{arrays_folder(wildcards.source)}/index.sha256",
        folds=ancient([f"{PREDICTIONS}/fold{fold}.parquet" for fold in FOLDS]),
        mean=ancient(f"{PREDICTIONS}/mean.parquet"),
        digest=f"{PREDICTIONS}/mean.sha256",
        thresholds=f"{RESULTS}/thresholds/{{recipe}}.csv",
        audit=ancient(f"{RESULTS}/audit/images.parquet"),
        audit_digest=f"{RESULTS}/audit/images.sha256",
    output:
        metrics=f"{EVALUATION}/metrics.csv",
        per_class=f"{EVALUATION}/per_class.csv",
        baselines=f"{EVALUATION}/baselines.csv",
        curves=f"{EVALUATION}/curves.parquet",
        subsets=report(
            f"{EVALUATION}/subsets.csv",
            caption="../report/subsets.rst",
            category="Leakage",
            labels={"shows": "Scores without what was seen in training"},
        ),
    log:
        f"{RESULTS}/logs/evaluate/{{recipe}}/{{source}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{recipe}}/{{source}}.tsv"
    wildcard_constraints:
        source=TEST_SOURCE,  # the only one that was compared with the training images
    conda:
        "../../envs/tables.yaml"
    params:
        code=code_digest("evaluate"),
        fold_numbers=FOLDS,
        strategies=canonical_json(STRATEGIES),
    shell:
        "python $HPALOC/evaluate.py --arrays {input.arrays} --fold-predictions {input.folds}"
        " --folds {params.fold_numbers} --mean {input.mean} --thresholds {input.thresholds}"
        " --strategies {params.strategies:q} --metrics {output.metrics}"
        " --per-class {output.per_class} --baselines {output.baselines} --curves {output.curves}"
        " --audit {input.audit} --subsets {output.subsets}"
        " > {log} 2>&1"
        # Snakemake shows the logs of failed jobs only.
        " && {{ grep WARNING {log} >&2 || true; }}"
