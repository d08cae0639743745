# Needs: arrays of any source, the networks of the trained folds, thresholds.
# Makes: <results>/predictions/<recipe>/<source>/ - probabilities per fold and their mean, called
# labels, and the same in Kaggle's format. The networks of all folds stay in memory and each image
# is read once; a job takes thousands of images.
# Steps: predict_part (one job per `images_per_job` images) → collect_predictions → call_labels.

PREDICTIONS = f"{RESULTS}/predictions/{{recipe}}/{{source}}"


rule predict:
    input:
        expand(
            f"{PREDICTIONS}/{{file}}",
            recipe=config["evaluate"],
            source=TEST_SOURCE,
            file=["labels.parquet", "submission.csv"],
        ),


rule predict_part:
    input:
        arrays=ancient(lambda wildcards: f"{arrays_folder(wildcards.source)}/index.parquet"),
        arrays_digest=lambda wildcards: f"{arrays_folder(wildcards.source)}/index.sha256",
        shards=ancient(lambda wildcards: shard_files(wildcards.source)),
        weights=ancient(lambda wildcards: models(wildcards.recipe, FOLDS, "weights.safetensors")),
        models=lambda wildcards: models(wildcards.recipe, FOLDS, "model.json"),
        digests=lambda wildcards: models(wildcards.recipe, FOLDS, "weights.sha256"),
    output:
        predictions=f"{PREDICTIONS}/parts/part_{{part}}.parquet",
        digest=f"{PREDICTIONS}/parts/part_{{part}}.sha256",
    log:
        f"{RESULTS}/logs/predict_part/{{recipe}}/{{source}}/{{part}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/predict_part/{{recipe}}/{{source}}/{{part}}.tsv"
    conda:
        "../../envs/train.yaml"
    # An H100 takes what eight to ten cores augment (benchmarks/feed.md).
    threads: 16
    resources:
        gpu=min(1, config["gpus_per_fold"]),
        nodes=1,
        mem_mb=attempt_scaled(16_000),
        runtime=attempt_scaled(480),
    params:
        code=code_digest("predict_part"),
        folds=FOLDS,
        recipe=prediction_json,
        backend=config["prediction"]["backend"],
        part=lambda wildcards: int(wildcards.part),
        parts=lambda wildcards: part_count(wildcards.source),
    shell:
        "python $HPALOC/predict_part.py --arrays {input.arrays} --part {params.part}"
        " --parts {params.parts} --folds {params.folds} --weights {input.weights}"
        " --models {input.models} --recipe {params.recipe:q} --backend {params.backend}"
        " --gpus {resources.gpu} --workers {threads}"
        " --predictions {output.predictions} --digest {output.digest}"
        " > {log} 2>&1"


rule collect_predictions:
    input:
        arrays=ancient(lambda wildcards: f"{arrays_folder(wildcards.source)}/index.parquet"),
        arrays_digest=lambda wildcards: f"{arrays_folder(wildcards.source)}/index.sha256",
        parts=ancient(
            lambda wildcards: numbered(
                f"{RESULTS}/predictions/{wildcards.recipe}/{wildcards.source}/parts/part_{{}}.parquet",
                part_count(wildcards.source),
            )
        ),
        digests=lambda wildcards: numbered(
            f"{RESULTS}/predictions/{wildcards.recipe}/{wildcards.source}/parts/part_{{}}.sha256",
            part_count(wildcards.source),
        ),
    output:
        folds=[f"{PREDICTIONS}/fold{fold}.parquet" for fold in FOLDS],
        mean=f"{PREDICTIONS}/mean.parquet",
        digest=f"{PREDICTIONS}/mean.sha256",
    log:
        f"{RESULTS}/logs/collect_predictions/{{recipe}}/{{source}}.log",
    conda:
        "../../envs/tables.yaml"
    params:
        code=code_digest("collect_predictions"),
        fold_numbers=FOLDS,
    shell:
        "python $HPALOC/collect_predictions.py --arrays {input.arrays} --parts {input.parts}"
        " --folds {params.fold_numbers} --fold-out {output.folds} --mean {output.mean}"
        " --digest {output.digest} > {log} 2>&1"


rule call_labels:
    input:
        mean=ancient(f"{PREDICTIONS}/mean.parquet"),
        digest=f"{PREDICTIONS}/mean.sha256",
        thresholds=f"{RESULTS}/thresholds/{{recipe}}.csv",
    output:
        labels=f"{PREDICTIONS}/labels.parquet",
        submission=report(
            f"{PREDICTIONS}/submission.csv",
            caption="../report/submission.rst",
            category="Tables",
            labels={"shows": "Called labels of the test images"},
        ),
    log:
        f"{RESULTS}/logs/call_labels/{{recipe}}/{{source}}.log",
    conda:
        "../../envs/tables.yaml"
    params:
        code=code_digest("call_labels"),
        strategy=config["thresholds"]["strategy"],
    shell:
        "python $HPALOC/call_labels.py --predictions {input.mean} --thresholds {input.thresholds}"
        " --strategy {params.strategy} --labels {output.labels} --submission {output.submission}"
        " > {log} 2>&1"
