# Needs: the validation probabilities of the trained folds - out-of-fold predictions only.
# Makes: <results>/thresholds/<recipe>.csv - for all classes and each class, raw and smoothed.


rule find_thresholds:
    input:
        arrays=ancient(f"{arrays_folder(TRAIN_SOURCE)}/index.parquet"),
        arrays_digest=f"{arrays_folder(TRAIN_SOURCE)}/index.sha256",
        validation=lambda wildcards: ancient(models(wildcards.recipe, FOLDS, "validation.parquet")),
        epochs=lambda wildcards: ancient(models(wildcards.recipe, FOLDS, "epochs.parquet")),
        digests=lambda wildcards: models(wildcards.recipe, FOLDS, "weights.sha256"),
    output:
        thresholds=f"{RESULTS}/thresholds/{{recipe}}.csv",
    log:
        f"{RESULTS}/logs/find_thresholds/{{recipe}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/find_thresholds/{{recipe}}.tsv"
    conda:
        "../../envs/tables.yaml"
    resources:
        mem_mb=attempt_scaled(thresholds_mb, at_most=2),  # few nodes have three times as much
    params:
        code=code_digest("find_thresholds"),
        folds=FOLDS,
        smoothing=config["thresholds"]["smoothing"],
    shell:
        "python $HPALOC/find_thresholds.py --arrays {input.arrays} --validation {input.validation}"
        " --epochs {input.epochs} --folds {params.folds} --smoothing {params.smoothing}"
        " --thresholds {output.thresholds} > {log} 2>&1"
