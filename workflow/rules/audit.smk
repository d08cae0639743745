# Needs: the arrays of the training and of the test source.
# Makes: results/sources/<source>/arrays_<size>/duplicates.* - images of a source that are the same
# picture - and <results>/audit/ - what of the test source was seen in training.
# Steps: hash_images (once a source) → duplicates_train (the training source alone; folds may use
# it) → audit_leakage (both sources; the evaluation alone uses it). The time of a comparison grows
# with the square of the images: the limits below are for about 500,000 on two cores.

AUDIT = f"{RESULTS}/audit"


rule audit:
    input:
        f"{AUDIT}/leakage.csv",


rule hash_images:
    input:
        arrays=ancient(f"{ARRAYS}/index.parquet"),
        arrays_digest=f"{ARRAYS}/index.sha256",
        shards=ancient(lambda wildcards: shard_files(wildcards.source, wildcards.size)),
    output:
        hashes=f"{ARRAYS}/hashes.parquet",
        digest=f"{ARRAYS}/hashes.sha256",
    log:
        f"{ARRAYS}/logs/hash_images.log",
    benchmark:
        f"{ARRAYS}/benchmarks/hash_images.tsv"
    conda:
        "../../envs/images.yaml"
    threads: 8
    resources:
        mem_mb=attempt_scaled(4_000),
        runtime=attempt_scaled(120),
    params:
        code=code_digest("hash_images"),
    shell:
        "python $HPALOC/hash_images.py --arrays {input.arrays} --hashes {output.hashes}"
        " --digest {output.digest} --threads {threads} > {log} 2>&1"
        # Snakemake shows the logs of failed jobs only.
        " && {{ grep WARNING {log} >&2 || true; }}"


rule duplicates_train:
    input:
        arrays=ancient(f"{ARRAYS}/index.parquet"),
        arrays_digest=f"{ARRAYS}/index.sha256",
        hashes=ancient(f"{ARRAYS}/hashes.parquet"),
        hashes_digest=f"{ARRAYS}/hashes.sha256",
    output:
        pairs=f"{ARRAYS}/duplicates.csv",
        groups=f"{ARRAYS}/duplicates.parquet",
        digest=f"{ARRAYS}/duplicates.sha256",
    log:
        f"{ARRAYS}/logs/duplicates_train.log",
    benchmark:
        f"{ARRAYS}/benchmarks/duplicates_train.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 8
    resources:
        mem_mb=attempt_scaled(8_000),
        runtime=attempt_scaled(120),
    params:
        code=code_digest("duplicates_train"),
    shell:
        "python $HPALOC/duplicates_train.py --arrays {input.arrays} --hashes {input.hashes}"
        " --pairs {output.pairs} --groups {output.groups} --digest {output.digest}"
        " --threads {threads} > {log} 2>&1"


rule audit_leakage:
    input:
        train_arrays=ancient(f"{arrays_folder(TRAIN_SOURCE)}/index.parquet"),
        train_digest=f"{arrays_folder(TRAIN_SOURCE)}/index.sha256",
        train_hashes=ancient(f"{arrays_folder(TRAIN_SOURCE)}/hashes.parquet"),
        train_hashes_digest=f"{arrays_folder(TRAIN_SOURCE)}/hashes.sha256",
        duplicates=ancient(f"{arrays_folder(TRAIN_SOURCE)}/duplicates.parquet"),
        duplicates_digest=f"{arrays_folder(TRAIN_SOURCE)}/duplicates.sha256",
        test_arrays=ancient(f"{arrays_folder(TEST_SOURCE)}/index.parquet"),
        test_digest=f"{arrays_folder(TEST_SOURCE)}/index.sha256",
        test_hashes=ancient(f"{arrays_folder(TEST_SOURCE)}/hashes.parquet"),
        test_hashes_digest=f"{arrays_folder(TEST_SOURCE)}/hashes.sha256",
    output:
        summary=audit_table("leakage", "What training and test share"),
        pairs=audit_table("twins", "Images that are the same picture"),
        conflicts=audit_table("conflicts", "Twins with different labels"),
        images=f"{AUDIT}/images.parquet",
        digest=f"{AUDIT}/images.sha256",
    log:
        f"{RESULTS}/logs/audit_leakage.log",
    benchmark:
        f"{RESULTS}/benchmarks/audit_leakage.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 8
    resources:
        mem_mb=attempt_scaled(8_000),
        runtime=attempt_scaled(120),
    params:
        code=code_digest("audit_leakage"),
    shell:
        "python $HPALOC/audit_leakage.py --train-arrays {input.train_arrays}"
        " --train-hashes {input.train_hashes} --train-groups {input.duplicates}"
        " --test-arrays {input.test_arrays} --test-hashes {input.test_hashes}"
        " --pairs {output.pairs} --conflicts {output.conflicts} --summary {output.summary}"
        " --images {output.images} --digest {output.digest} --threads {threads} > {log} 2>&1"
        # Snakemake shows the logs of failed jobs only.
        " && {{ grep WARNING {log} >&2 || true; }}"
