# Needs: arrays of the training source, folds, and for `pretrained: imagenet` fetched weights.
# Makes: <results>/models/<recipe>/fold<k>/ - weights, what was recorded by step and by epoch, and
# the probabilities of the fold's validation images. One job a recipe and fold.
# Checkpoints are no outputs (Snakemake deletes those of a failed job): they lie in results/state/.


rule train:
    input:
        [models(recipe, FOLDS, "weights.sha256") for recipe in config["train"]],
        [
            models(recipe, generation_folds(recipe), "weights.sha256")
            for recipe in config["generations"]
        ],


rule train_fold:
    input:
        unpack(pretrained_files),
        arrays=ancient(f"{arrays_folder(TRAIN_SOURCE)}/index.parquet"),
        arrays_digest=f"{arrays_folder(TRAIN_SOURCE)}/index.sha256",
        shards=ancient(shard_files(TRAIN_SOURCE)),
        folds=ancient(f"{RESULTS}/folds/folds.parquet"),
        folds_digest=f"{RESULTS}/folds/folds.sha256",
    output:
        weights=f"{RESULTS}/models/{{recipe}}/fold{{fold}}/weights.safetensors",
        digest=f"{RESULTS}/models/{{recipe}}/fold{{fold}}/weights.sha256",
        model=f"{RESULTS}/models/{{recipe}}/fold{{fold}}/model.json",
        steps=f"{RESULTS}/models/{{recipe}}/fold{{fold}}/steps.parquet",
        epochs=f"{RESULTS}/models/{{recipe}}/fold{{fold}}/epochs.parquet",
        validation=f"{RESULTS}/models/{{recipe}}/fold{{fold}}/validation.parquet",
    log:
        f"{RESULTS}/logs/train_fold/{{recipe}}/fold{{fold}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_fold/{{recipe}}/fold{{fold}}.tsv"
    conda:
        "../../envs/train.yaml"
    threads: training_threads
    resources:
        gpu=config["gpus_per_fold"],
        nodes=1,
        # Goes on where it was: no attempt needs longer, and few nodes have three times the memory.
        mem_mb=attempt_scaled(24_000 * max(1, config["gpus_per_fold"]), at_most=2),
        runtime="48h",
    params:
        code=code_digest("train_fold"),
        recipe=recipe_json,
        pretrained=lambda wildcards, input: (
            f"--pretrained {shlex.quote(input.weights)}" if input.get("weights") else ""
        ),
        pretrained_digest=pretrained_digest,
        run=RUN,
        state=STATES,
    # The shell becomes the program, so that a signal to the job reaches it.
    shell:
        "exec python $HPALOC/train_fold.py --arrays {input.arrays} --arrays-digest {input.arrays_digest}"
        " --folds {input.folds} --folds-digest {input.folds_digest} --fold {wildcards.fold}"
        " --recipe {params.recipe:q} --name {wildcards.recipe} --run {params.run}"
        " --code {params.code} --state {params.state} {params.pretrained}"
        " --gpus {resources.gpu} --workers {threads}"
        " --checkpoint-minutes $HPALOC_CHECKPOINT_MINUTES"
        " --weights {output.weights} --weights-digest {output.digest} --model {output.model}"
        " --steps {output.steps} --epochs {output.epochs} --validation {output.validation}"
        " > {log} 2>&1"


# Both look and say; neither makes a file.
rule stale_states:
    log:
        f"{RESULTS}/logs/stale_states.log",
    localrule: True
    conda:
        "../../envs/tables.yaml"
    params:
        current=trained_jobs(),
        run=RUN,
        state=STATES,
    shell:
        "python $HPALOC/list_states.py --state {params.state} --run {params.run}"
        " --current {params.current:q} 2>&1 | tee {log}"


rule remove_stale_states:
    log:
        f"{RESULTS}/logs/remove_stale_states.log",
    localrule: True
    conda:
        "../../envs/tables.yaml"
    params:
        current=trained_jobs(),
        run=RUN,
        state=STATES,
    shell:
        "python $HPALOC/list_states.py --state {params.state} --run {params.run}"
        " --current {params.current:q} --remove 2>&1 | tee {log}"
