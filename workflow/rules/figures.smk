# Needs: the tables, the records of training, and samples of the arrays.
# Makes: <results>/figures/ - every figure of the paper as PNG and PDF. What is drawn lies
# beside it as a tidy table in <results>/tables/ (of two figures in folds/ and evaluation/), and
# nothing else is drawn.

STYLE = canonical_json(config["figures"])
MARK = "--simulated" if SIMULATED else ""
# Of each generation's trained folds: epoch table, recipe, fold.
GENERATIONS = [
    (f"{RESULTS}/models/{recipe}/fold{fold}/epochs.parquet", recipe, fold)
    for recipe in config["generations"]
    for fold in generation_folds(recipe)
]


rule figures:
    input:
        expand(
            f"{RESULTS}/figures/{{name}}.png",
            name=[
                "dataset_samples",
                "split_distribution",
                "augmentation",
                "architecture",
                "training_losses",
                "validation_f1_focal",
                "validation_f1_per_class",
                "training_step",
                *(["generations"] if config["generations"] else []),
                *labelled_test("pr_curve", "human_vs_machine"),
            ],
        ),


rule plot_dataset_samples:
    input:
        arrays=ancient(f"{arrays_folder(TRAIN_SOURCE)}/index.parquet"),
        arrays_digest=f"{arrays_folder(TRAIN_SOURCE)}/index.sha256",
        shards=ancient(shard_files(TRAIN_SOURCE)),
    output:
        png=figure("dataset_samples", "Data", "Fig. 1: two samples"),
        pdf=f"{RESULTS}/figures/dataset_samples.pdf",
        table=f"{RESULTS}/tables/dataset_samples.csv",
    log:
        f"{RESULTS}/logs/plot_dataset_samples.log",
    conda:
        "../../envs/tables.yaml"
    params:
        code=code_digest("plot_dataset_samples"),
        style=STYLE,
        mark=MARK,
    shell:
        "python $HPALOC/plot_dataset_samples.py --arrays {input.arrays}"
        " --style {params.style:q} {params.mark} --table {output.table} --png {output.png} --pdf {output.pdf} > {log} 2>&1"


rule plot_split_distribution:
    input:
        counts=f"{RESULTS}/folds/counts.csv",
    output:
        png=figure("split_distribution", "Data", "Fig. 2: labels of a split"),
        pdf=f"{RESULTS}/figures/split_distribution.pdf",
    log:
        f"{RESULTS}/logs/plot_split_distribution.log",
    conda:
        "../../envs/tables.yaml"
    params:
        code=code_digest("plot_split_distribution"),
        style=STYLE,
        mark=MARK,
        fold_number=FOLDS[0],
    shell:
        "python $HPALOC/plot_split_distribution.py --counts {input.counts} --fold {params.fold_number}"
        " --style {params.style:q} {params.mark} --png {output.png} --pdf {output.pdf} > {log} 2>&1"


rule plot_augmentation:
    input:
        arrays=ancient(f"{arrays_folder(TRAIN_SOURCE)}/index.parquet"),
        arrays_digest=f"{arrays_folder(TRAIN_SOURCE)}/index.sha256",
        shards=ancient(shard_files(TRAIN_SOURCE)),
    output:
        png=figure("augmentation", "Data", "Fig. 3: augmentation"),
        pdf=f"{RESULTS}/figures/augmentation.pdf",
        table=f"{RESULTS}/tables/augmentation.csv",
        statistics=f"{RESULTS}/tables/augmentation_statistics.csv",
    log:
        f"{RESULTS}/logs/plot_augmentation.log",
    conda:
        "../../envs/train.yaml"
    params:
        code=code_digest("plot_augmentation"),
        style=STYLE,
        mark=MARK,
        recipe=canonical_json(
            {key: RECIPES[FINAL][key] for key in ("augmentation", "image_size", "seed")}
        ),
    shell:
        "python $HPALOC/plot_augmentation.py --arrays {input.arrays} --recipe {params.recipe:q}"
        " --style {params.style:q} {params.mark} --table {output.table} --statistics {output.statistics}"
        " --png {output.png} --pdf {output.pdf} > {log} 2>&1"


rule plot_architecture:
    output:
        png=figure("architecture", "Model", "Fig. 4: architecture"),
        pdf=f"{RESULTS}/figures/architecture.pdf",
        table=f"{RESULTS}/tables/architecture.csv",
    log:
        f"{RESULTS}/logs/plot_architecture.log",
    conda:
        "../../envs/train.yaml"
    params:
        code=code_digest("plot_architecture"),
        style=STYLE,
        recipe=canonical_json(
            {
                key: RECIPES[FINAL][key]
                for key in (
                    "network",
                    "image_size",
                    "pool",
                    "dropout",
                    "normalise",
                    "channel_means",
                )
            }
        ),
    shell:
        "python $HPALOC/plot_architecture.py --recipe {params.recipe:q}"
        " --style {params.style:q} --table {output.table} --png {output.png} --pdf {output.pdf} > {log} 2>&1"


rule plot_training_losses:
    input:
        steps=ancient(models(FINAL, FOLDS, "steps.parquet")),
        digests=models(FINAL, FOLDS, "weights.sha256"),
    output:
        png=figure("training_losses", "Training", "Fig. 5: losses and scores by step"),
        pdf=f"{RESULTS}/figures/training_losses.pdf",
        table=f"{RESULTS}/tables/training_losses.csv",
    log:
        f"{RESULTS}/logs/plot_training_losses.log",
    conda:
        "../../envs/tables.yaml"
    params:
        code=code_digest("plot_training_losses"),
        style=STYLE,
        mark=MARK,
        fold_numbers=FOLDS,
        recipe=FINAL,
    shell:
        "python $HPALOC/plot_training_losses.py --steps {input.steps} --folds {params.fold_numbers} --recipe {params.recipe}"
        " --style {params.style:q} {params.mark} --table {output.table} --png {output.png} --pdf {output.pdf} > {log} 2>&1"


rule plot_validation_f1_focal:
    input:
        epochs=ancient(models(FINAL, FOLDS, "epochs.parquet")),
        digests=models(FINAL, FOLDS, "weights.sha256"),
    output:
        png=figure("validation_f1_focal", "Training", "Fig. 6: validation F1 and focal score"),
        pdf=f"{RESULTS}/figures/validation_f1_focal.pdf",
        table=f"{RESULTS}/tables/validation_f1_focal.csv",
    log:
        f"{RESULTS}/logs/plot_validation_f1_focal.log",
    conda:
        "../../envs/tables.yaml"
    params:
        code=code_digest("plot_validation_f1_focal"),
        style=STYLE,
        mark=MARK,
        fold_numbers=FOLDS,
        recipe=FINAL,
    shell:
        "python $HPALOC/plot_validation_f1_focal.py --epochs {input.epochs} --folds {params.fold_numbers} --recipe {params.recipe}"
        " --style {params.style:q} {params.mark} --table {output.table} --png {output.png} --pdf {output.pdf} > {log} 2>&1"


rule plot_validation_f1_per_class:
    input:
        epochs=ancient(models(FINAL, FOLDS, "epochs.parquet")),
        digests=models(FINAL, FOLDS, "weights.sha256"),
        counts=f"{RESULTS}/folds/counts.csv",
    output:
        png=figure("validation_f1_per_class", "Training", "Fig. 7: validation F1 of each class"),
        pdf=f"{RESULTS}/figures/validation_f1_per_class.pdf",
        table=f"{RESULTS}/tables/validation_f1_per_class.csv",
    log:
        f"{RESULTS}/logs/plot_validation_f1_per_class.log",
    conda:
        "../../envs/tables.yaml"
    params:
        code=code_digest("plot_validation_f1_per_class"),
        style=STYLE,
        mark=MARK,
        fold_numbers=FOLDS,
        recipe=FINAL,
    shell:
        "python $HPALOC/plot_validation_f1_per_class.py --epochs {input.epochs} --folds {params.fold_numbers} --counts {input.counts} --recipe {params.recipe}"
        " --style {params.style:q} {params.mark} --table {output.table} --png {output.png} --pdf {output.pdf} > {log} 2>&1"


rule plot_generations:
    input:
        epochs=ancient([path for path, _, _ in GENERATIONS]),
        digests=[path.replace("epochs.parquet", "weights.sha256") for path, _, _ in GENERATIONS],
    output:
        png=figure("generations", "Training", "Last figure: generations of models"),
        pdf=f"{RESULTS}/figures/generations.pdf",
        table=f"{RESULTS}/tables/generations.csv",
    log:
        f"{RESULTS}/logs/plot_generations.log",
    conda:
        "../../envs/tables.yaml"
    params:
        code=code_digest("plot_generations"),
        style=STYLE,
        mark=MARK,
        recipes=[recipe for _, recipe, _ in GENERATIONS],
        fold_numbers=[fold for _, _, fold in GENERATIONS],
    shell:
        "python $HPALOC/plot_generations.py --epochs {input.epochs} --recipes {params.recipes} --folds {params.fold_numbers}"
        " --style {params.style:q} {params.mark} --table {output.table} --png {output.png} --pdf {output.pdf} > {log} 2>&1"


rule plot_pr_curve:
    input:
        curves=f"{FINAL_EVALUATION}/curves.parquet",
        metrics=f"{FINAL_EVALUATION}/metrics.csv",
        thresholds=f"{RESULTS}/thresholds/{FINAL}.csv",
    output:
        png=figure("pr_curve", "Results", "Fig. 8: precision and recall"),
        pdf=f"{RESULTS}/figures/pr_curve.pdf",
    log:
        f"{RESULTS}/logs/plot_pr_curve.log",
    conda:
        "../../envs/tables.yaml"
    params:
        code=code_digest("plot_pr_curve"),
        style=STYLE,
        mark=MARK,
        strategy=config["thresholds"]["strategy"],
        recipe=FINAL,
        source=TEST_SOURCE,
    shell:
        "python $HPALOC/plot_pr_curve.py --curves {input.curves} --metrics {input.metrics} --thresholds {input.thresholds} --strategy {params.strategy} --recipe {params.recipe} --source {params.source}"
        " --style {params.style:q} {params.mark} --png {output.png} --pdf {output.pdf} > {log} 2>&1"


rule plot_human_vs_machine:
    input:
        per_class=f"{RESULTS}/tables/human_vs_machine_per_class.csv",
        scores=f"{RESULTS}/tables/human_vs_machine.csv",
    output:
        png=figure("human_vs_machine", "Results", "Fig. 9: people and network"),
        pdf=f"{RESULTS}/figures/human_vs_machine.pdf",
    log:
        f"{RESULTS}/logs/plot_human_vs_machine.log",
    conda:
        "../../envs/tables.yaml"
    params:
        code=code_digest("plot_human_vs_machine"),
        style=STYLE,
        mark=MARK,
        recipe=FINAL,
        source=TEST_SOURCE,
    shell:
        "python $HPALOC/plot_human_vs_machine.py --per-class {input.per_class} --scores {input.scores} --recipe {params.recipe} --source {params.source}"
        " --style {params.style:q} {params.mark} --png {output.png} --pdf {output.pdf} > {log} 2>&1"


rule plot_training_step:
    input:
        times=f"{RESULTS}/tables/training_step.csv",
    output:
        png=figure("training_step", "Training", "Where the time of a step goes"),
        pdf=f"{RESULTS}/figures/training_step.pdf",
    log:
        f"{RESULTS}/logs/plot_training_step.log",
    conda:
        "../../envs/tables.yaml"
    params:
        code=code_digest("plot_training_step"),
        style=STYLE,
        mark=MARK,
    shell:
        "python $HPALOC/plot_training_step.py --times {input.times}"
        " --style {params.style:q} {params.mark} --png {output.png} --pdf {output.pdf} > {log} 2>&1"
