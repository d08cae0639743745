# Needs: the index of the training source's arrays. The test source has no part in it.
# Makes: <results>/folds/ - which image validates in which fold, and the label counts of each split.


rule folds:
    input:
        f"{RESULTS}/folds/folds.sha256",
        f"{RESULTS}/folds/counts.csv",


rule make_folds:
    input:
        unpack(duplicate_groups),
        arrays=ancient(f"{arrays_folder(TRAIN_SOURCE)}/index.parquet"),
        arrays_digest=f"{arrays_folder(TRAIN_SOURCE)}/index.sha256",
    output:
        folds=f"{RESULTS}/folds/folds.parquet",
        digest=f"{RESULTS}/folds/folds.sha256",
        counts=f"{RESULTS}/folds/counts.csv",
    log:
        f"{RESULTS}/logs/make_folds.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_folds.tsv"
    conda:
        "../../envs/tables.yaml"
    params:
        code=code_digest("make_folds"),
        n=config["folds"]["n"],
        seed=config["folds"]["seed"],
        group_by=canonical_json(config["folds"]["group_by"]),
        duplicates=lambda wildcards, input: (
            f"--duplicates {input.duplicates}" if "duplicates" in input.keys() else ""
        ),
    shell:
        "python $HPALOC/make_folds.py --arrays {input.arrays} --n {params.n} --seed {params.seed}"
        " --group-by {params.group_by:q} {params.duplicates} --folds {output.folds} --digest {output.digest}"
        " --counts {output.counts} > {log} 2>&1"
