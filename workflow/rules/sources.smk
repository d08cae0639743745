# Needs: nothing but the configuration (simulated), or a folder of images (local).
# Makes: results/sources/<source>/raw/ - the index of the images, and of a made source the images.
# Every kind of source ends here with the same index; nothing downstream knows which it was.


rule simulate_source:
    output:
        index=f"{SOURCES}/{{source}}/raw/index.parquet",
        digest=f"{SOURCES}/{{source}}/raw/index.sha256",
        settings=f"{SOURCES}/{{source}}/raw/settings.json",
        # Missing beside a source of another version, whatever Snakemake remembers of it.
        version=f"{SOURCES}/{{source}}/raw/{SIMULATOR_STAMP}",
    log:
        f"{SOURCES}/{{source}}/logs/simulate_source.log",
    benchmark:
        f"{SOURCES}/{{source}}/benchmarks/simulate_source.tsv"
    wildcard_constraints:
        source=sources_of_kind("simulated"),
    conda:
        "../../envs/images.yaml"
    threads: 16
    resources:
        mem_mb=attempt_scaled(4_000),
        runtime=attempt_scaled(720),
    params:
        code=code_digest("simulate_source"),
        settings=lambda wildcards: canonical_json(source_settings(wildcards.source)),
        raw=lambda wildcards: f"{SOURCES}/{wildcards.source}/raw",
    shell:
        "python $HPALOC/simulate_source.py --name {wildcards.source} --settings {params.settings:q}"
        " --raw {params.raw} --index {output.index} --digest {output.digest}"
        " --settings-out {output.settings} --workers {threads} > {log} 2>&1"
        # Snakemake shows the logs of failed jobs only.
        " && {{ grep WARNING {log} >&2 || true; }}"


rule index_local:
    output:
        index=f"{SOURCES}/{{source}}/raw/index.parquet",
        digest=f"{SOURCES}/{{source}}/raw/index.sha256",
        settings=f"{SOURCES}/{{source}}/raw/settings.json",
    log:
        f"{SOURCES}/{{source}}/logs/index_local.log",
    benchmark:
        f"{SOURCES}/{{source}}/benchmarks/index_local.tsv"
    wildcard_constraints:
        source=sources_of_kind("local"),
    conda:
        "../../envs/images.yaml"
    threads: 8
    resources:
        mem_mb=attempt_scaled(4_000),
        runtime=attempt_scaled(240),
    params:
        code=code_digest("index_local"),
        settings=lambda wildcards: canonical_json(source_settings(wildcards.source)),
        # The folder is not an input (too many files): other contents or labels are the trigger.
        contents=lambda wildcards: status(wildcards.source).token,
        labels=lambda wildcards: labels_digest(wildcards.source),
    shell:
        "python $HPALOC/index_local.py --name {wildcards.source} --settings {params.settings:q}"
        " --contents {params.contents} --index {output.index} --digest {output.digest}"
        " --settings-out {output.settings} --workers {threads} > {log} 2>&1"
        # Snakemake shows the logs of failed jobs only.
        " && {{ grep WARNING {log} >&2 || true; }}"
