# Needs: thresholds, predictions, evaluation and training records of the final recipe.
# Makes: <results>/tables/ - Tables I, II and III of the paper and the numbers of its text, each
# beside what the paper published (resources/paper/), and where the time of a training step goes.

FINAL_EVALUATION = f"{RESULTS}/evaluation/{FINAL}/{TEST_SOURCE}"
FINAL_PREDICTIONS = f"{RESULTS}/predictions/{FINAL}/{TEST_SOURCE}"
PUBLISHED = f"{RESOURCES}/paper"


rule tables:
    input:
        f"{RESULTS}/tables/best_thresholds.csv",
        f"{RESULTS}/tables/speed.csv",
        labelled_test(
            f"{RESULTS}/tables/human_vs_machine.csv",
            f"{RESULTS}/tables/human_vs_machine_per_class.csv",
            f"{RESULTS}/tables/summary.csv",
            expand(f"{EVALUATION}/metrics.csv", recipe=config["evaluate"], source=TEST_SOURCE),
        ),


rule tabulate_best_thresholds:
    input:
        thresholds=f"{RESULTS}/thresholds/{FINAL}.csv",
        published=f"{PUBLISHED}/table1.csv",
    output:
        table=table("best_thresholds", "Table I: best thresholds"),
    log:
        f"{RESULTS}/logs/tabulate_best_thresholds.log",
    conda:
        "../../envs/tables.yaml"
    params:
        code=code_digest("tabulate_best_thresholds"),
    shell:
        "python $HPALOC/tabulate_best_thresholds.py --thresholds {input.thresholds}"
        " --published {input.published} --table {output.table} > {log} 2>&1"


rule tabulate_human_vs_machine:
    input:
        arrays=ancient(f"{arrays_folder(TEST_SOURCE)}/index.parquet"),
        arrays_digest=f"{arrays_folder(TEST_SOURCE)}/index.sha256",
        fold=ancient(f"{FINAL_PREDICTIONS}/fold{FOLDS[0]}.parquet"),
        mean=ancient(f"{FINAL_PREDICTIONS}/mean.parquet"),
        digest=f"{FINAL_PREDICTIONS}/mean.sha256",
        thresholds=f"{RESULTS}/thresholds/{FINAL}.csv",
        published=f"{PUBLISHED}/table2.csv",
        sheets=answer_sheets(),
    output:
        table=table("human_vs_machine", "Table II: people and network"),
        per_class=f"{RESULTS}/tables/human_vs_machine_per_class.csv",
    log:
        f"{RESULTS}/logs/tabulate_human_vs_machine.log",
    conda:
        "../../envs/tables.yaml"
    params:
        code=code_digest("tabulate_human_vs_machine"),
        fold_number=FOLDS[0],
        strategy=config["thresholds"]["strategy"],
        answers=canonical_json(config["evaluation"]["human_answers"]),
        answers_digest=answers_digest(),
    shell:
        "python $HPALOC/tabulate_human_vs_machine.py --arrays {input.arrays}"
        " --fold {params.fold_number} --fold-predictions {input.fold} --mean {input.mean}"
        " --thresholds {input.thresholds} --strategy {params.strategy} --answers {params.answers:q}"
        " --published {input.published} --table {output.table} --per-class {output.per_class}"
        " > {log} 2>&1"


rule measure_speed:
    input:
        arrays=ancient(f"{arrays_folder(TEST_SOURCE)}/index.parquet"),
        arrays_digest=f"{arrays_folder(TEST_SOURCE)}/index.sha256",
        shards=ancient(shard_files(TEST_SOURCE)),
        raw_index=ancient(f"{SOURCES}/{TEST_SOURCE}/raw/index.parquet"),
        raw_digest=f"{SOURCES}/{TEST_SOURCE}/raw/index.sha256",
        settings=f"{SOURCES}/{TEST_SOURCE}/raw/settings.json",
        weights=ancient(f"{RESULTS}/models/{FINAL}/fold{FOLDS[0]}/weights.safetensors"),
        digest=f"{RESULTS}/models/{FINAL}/fold{FOLDS[0]}/weights.sha256",
        model=f"{RESULTS}/models/{FINAL}/fold{FOLDS[0]}/model.json",
        published=f"{PUBLISHED}/table3.csv",
    output:
        table=table("speed", "Table III: speed"),
    log:
        f"{RESULTS}/logs/measure_speed.log",
    conda:
        "../../envs/train.yaml"
    # Every core: a job beside it would be measured too. A cluster's job has no such number.
    threads: workflow.resource_settings.cores or 16
    resources:
        gpu=min(1, config["gpus_per_fold"]),
        nodes=1,
        mem_mb=attempt_scaled(8_000),
        runtime=attempt_scaled(60),
    params:
        code=code_digest("measure_speed"),
        recipe=canonical_json(RECIPES[FINAL]),
        backend=config["prediction"]["backend"],
    shell:
        "python $HPALOC/measure_speed.py --arrays {input.arrays} --raw-index {input.raw_index}"
        " --settings {input.settings} --weights {input.weights} --model {input.model}"
        " --recipe {params.recipe:q} --published {input.published} --backend {params.backend}"
        " --gpus {resources.gpu} --threads {threads} --table {output.table} > {log} 2>&1"


rule measure_training_step:
    input:
        arrays=ancient(f"{arrays_folder(TRAIN_SOURCE)}/index.parquet"),
        arrays_digest=f"{arrays_folder(TRAIN_SOURCE)}/index.sha256",
        shards=ancient(shard_files(TRAIN_SOURCE)),
        folds=ancient(f"{RESULTS}/folds/folds.parquet"),
        folds_digest=f"{RESULTS}/folds/folds.sha256",
    output:
        table=f"{RESULTS}/tables/training_step.csv",
    log:
        f"{RESULTS}/logs/measure_training_step.log",
    conda:
        "../../envs/train.yaml"
    # Every core: a job beside it would be measured too.
    threads: workflow.resource_settings.cores or 16
    resources:
        gpu=min(1, config["gpus_per_fold"]),
        nodes=1,
        mem_mb=attempt_scaled(24_000),
        runtime=attempt_scaled(60),
    params:
        code=code_digest("measure_training_step"),
        fold_number=FOLDS[0],
        recipe=canonical_json(RECIPES[FINAL]),
    shell:
        "python $HPALOC/measure_training_step.py --arrays {input.arrays} --folds {input.folds}"
        " --fold {params.fold_number} --recipe {params.recipe:q} --gpus {resources.gpu}"
        " --workers {threads} --table {output.table} > {log} 2>&1"


rule tabulate_summary:
    input:
        steps=ancient(models(FINAL, FOLDS, "steps.parquet")),
        epochs=ancient(models(FINAL, FOLDS, "epochs.parquet")),
        digests=models(FINAL, FOLDS, "weights.sha256"),
        folds=ancient(f"{RESULTS}/folds/folds.parquet"),
        folds_digest=f"{RESULTS}/folds/folds.sha256",
        counts=f"{RESULTS}/folds/counts.csv",
        train_arrays=ancient(f"{arrays_folder(TRAIN_SOURCE)}/index.parquet"),
        train_digest=f"{arrays_folder(TRAIN_SOURCE)}/index.sha256",
        test_arrays=ancient(f"{arrays_folder(TEST_SOURCE)}/index.parquet"),
        test_digest=f"{arrays_folder(TEST_SOURCE)}/index.sha256",
        thresholds=f"{RESULTS}/thresholds/{FINAL}.csv",
        metrics=f"{FINAL_EVALUATION}/metrics.csv",
        per_class=f"{FINAL_EVALUATION}/per_class.csv",
        people=f"{RESULTS}/tables/human_vs_machine.csv",
        speed=f"{RESULTS}/tables/speed.csv",
        published=f"{PUBLISHED}/text.csv",
    output:
        table=table("summary", "Numbers of the text"),
    log:
        f"{RESULTS}/logs/tabulate_summary.log",
    conda:
        "../../envs/tables.yaml"
    params:
        code=code_digest("tabulate_summary"),
        fold_numbers=FOLDS,
        strategy=config["thresholds"]["strategy"],
    shell:
        "python $HPALOC/tabulate_summary.py --folds {params.fold_numbers} --steps {input.steps}"
        " --epochs {input.epochs} --fold-table {input.folds} --fold-counts {input.counts}"
        " --train-arrays {input.train_arrays} --test-arrays {input.test_arrays}"
        " --thresholds {input.thresholds} --strategy {params.strategy} --metrics {input.metrics}"
        " --per-class {input.per_class} --human-vs-machine {input.people} --speed {input.speed}"
        " --published {input.published} --table {output.table} > {log} 2>&1"
