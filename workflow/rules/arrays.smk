# Needs: the index of a source and its images.
# Makes: results/sources/<source>/arrays_<size>/ - uint8 shards N×S×S×4, quarantine.csv, and the
# index that says in which row of which shard an image lies.
# Steps: convert_shard (one job a shard) → list_quarantine → index_arrays.

ARRAYS = f"{SOURCES}/{{source}}/arrays_{{size}}"


rule arrays:
    input:
        [f"{arrays_folder(source)}/index.sha256" for source in (TRAIN_SOURCE, TEST_SOURCE)],


rule convert_shard:
    input:
        unpack(simulator_stamp),
        index=ancient(f"{SOURCES}/{{source}}/raw/index.parquet"),
        index_digest=f"{SOURCES}/{{source}}/raw/index.sha256",
        settings=f"{SOURCES}/{{source}}/raw/settings.json",
    output:
        array=f"{ARRAYS}/shard_{{shard}}.npy",
        rows=f"{ARRAYS}/shard_{{shard}}.parquet",
    log:
        f"{ARRAYS}/logs/convert_shard/{{shard}}.log",
    benchmark:
        f"{ARRAYS}/benchmarks/convert_shard/{{shard}}.tsv"
    conda:
        "../../envs/images.yaml"
    threads: 4
    resources:
        mem_mb=attempt_scaled(4_000),
        runtime=attempt_scaled(60),
    params:
        code=code_digest("convert_shard"),
        shard=lambda wildcards: int(wildcards.shard),
        shards=lambda wildcards: shard_count(wildcards.source),
    shell:
        "python $HPALOC/convert_shard.py --index {input.index} --settings {input.settings}"
        " --shard {params.shard} --shards {params.shards} --size {wildcards.size}"
        " --array {output.array} --rows {output.rows} --threads {threads} > {log} 2>&1"


rule list_quarantine:
    input:
        rows=lambda wildcards: numbered(
            f"{SOURCES}/{wildcards.source}/arrays_{wildcards.size}/shard_{{}}.parquet",
            shard_count(wildcards.source),
        ),
    output:
        quarantine=f"{ARRAYS}/quarantine.csv",
    log:
        f"{ARRAYS}/logs/list_quarantine.log",
    conda:
        "../../envs/images.yaml"
    params:
        code=code_digest("list_quarantine"),
    shell:
        "python $HPALOC/list_quarantine.py --rows {input.rows} --quarantine {output.quarantine}"
        " > {log} 2>&1"
        # Snakemake shows the logs of failed jobs only.
        " && {{ grep WARNING {log} >&2 || true; }}"


rule index_arrays:
    input:
        raw_index=ancient(f"{SOURCES}/{{source}}/raw/index.parquet"),
        raw_digest=f"{SOURCES}/{{source}}/raw/index.sha256",
        rows=rules.list_quarantine.input.rows,
        quarantine=f"{ARRAYS}/quarantine.csv",
    output:
        index=f"{ARRAYS}/index.parquet",
        digest=f"{ARRAYS}/index.sha256",
    log:
        f"{ARRAYS}/logs/index_arrays.log",
    conda:
        "../../envs/images.yaml"
    params:
        code=code_digest("index_arrays"),
        policy=config["arrays"]["quarantine"],
    shell:
        "python $HPALOC/index_arrays.py --raw-index {input.raw_index} --rows {input.rows}"
        " --quarantine {input.quarantine} --policy {params.policy}"
        " --index {output.index} --digest {output.digest} > {log} 2>&1"
