# Needs: the network, and for the competition's data a token of Kaggle. Nothing that is already there.
# Makes: results/downloads/ - files, whole and checked, which outlive a failed job; and of every
# source results/sources/<source>/raw/ - what lies there, for the stages after it.
# Steps: kaggle: fetch_kaggle → index_kaggle. hpa: fetch_hpa_genes → fetch_hpa_entries → index_hpa →
# select_hpa → fetch_hpa_images (one job per 1,000 images) → collect_hpa_images.
# Rules that use the network are local: they run where Snakemake runs, never on a compute node.

ATLAS = f"{SOURCES}/{{source}}/atlas"
HPA_DOWNLOADS = f"{DOWNLOADS}/hpa"


rule fetch:
    input:
        fetched_files(),


rule submission:
    input:
        lambda wildcards: expand(
            f"{RESULTS}/predictions/{{recipe}}/{{source}}/kaggle_submission.csv",
            recipe=config["evaluate"],
            source=kaggle_test_source(),
        ),


rule fetch_kaggle:
    output:
        files=f"{SOURCES}/{{source}}/raw/files.json",
    log:
        f"{SOURCES}/{{source}}/logs/fetch_kaggle.log",
    wildcard_constraints:
        source=sources_of_kind("kaggle"),
    localrule: True
    conda:
        "../../envs/fetch.yaml"
    resources:
        downloads=1,
    params:
        code=code_digest("fetch_kaggle"),
        settings=lambda wildcards: canonical_json(source_settings(wildcards.source)),
        # The user's own files are not inputs: where they are gone, what was made of them stays.
        contents=lambda wildcards: status(wildcards.source).token,
        downloads=f"{DOWNLOADS}/kaggle",
    shell:
        "python $HPALOC/fetch_kaggle.py --settings {params.settings:q}"
        ' --downloads {params.downloads} --network "$HPALOC_NETWORK" --files {output.files}'
        " > {log} 2>&1"


rule index_kaggle:
    input:
        files=f"{SOURCES}/{{source}}/raw/files.json",
    output:
        index=f"{SOURCES}/{{source}}/raw/index.parquet",
        digest=f"{SOURCES}/{{source}}/raw/index.sha256",
        settings=f"{SOURCES}/{{source}}/raw/settings.json",
    log:
        f"{SOURCES}/{{source}}/logs/index_kaggle.log",
    benchmark:
        f"{SOURCES}/{{source}}/benchmarks/index_kaggle.tsv"
    wildcard_constraints:
        source=sources_of_kind("kaggle"),
    conda:
        "../../envs/images.yaml"
    threads: 8
    resources:
        mem_mb=attempt_scaled(4_000),
        runtime=attempt_scaled(240),
    params:
        code=code_digest("index_kaggle"),
        settings=lambda wildcards: canonical_json(source_settings(wildcards.source)),
        contents=lambda wildcards: status(wildcards.source).token,
    shell:
        "python $HPALOC/index_kaggle.py --name {wildcards.source} --settings {params.settings:q}"
        " --files {input.files} --contents {params.contents} --index {output.index} --digest {output.digest}"
        " --settings-out {output.settings} --workers {threads} > {log} 2>&1"


rule write_submission:
    input:
        labels=f"{RESULTS}/predictions/{{recipe}}/{{source}}/submission.csv",
        files=f"{SOURCES}/{{source}}/raw/files.json",
        quarantine=lambda wildcards: f"{arrays_folder(wildcards.source)}/quarantine.csv",
    output:
        submission=f"{RESULTS}/predictions/{{recipe}}/{{source}}/kaggle_submission.csv",
    log:
        f"{RESULTS}/logs/write_submission/{{recipe}}/{{source}}.log",
    wildcard_constraints:
        source=sources_of_kind("kaggle"),
    conda:
        "../../envs/tables.yaml"
    params:
        code=code_digest("write_submission"),
    shell:
        "python $HPALOC/write_submission.py --labels {input.labels} --files {input.files}"
        " --quarantine {input.quarantine} --submission {output.submission} > {log} 2>&1"
        # Snakemake shows the logs of failed jobs only.
        " && {{ grep WARNING {log} >&2 || true; }}"


rule fetch_hpa_genes:
    output:
        genes=f"{ATLAS}/genes.csv",
    log:
        f"{SOURCES}/{{source}}/logs/fetch_hpa_genes.log",
    wildcard_constraints:
        source=sources_of_kind("hpa"),
    localrule: True
    conda:
        "../../envs/fetch.yaml"
    resources:
        downloads=1,
    params:
        code=code_digest("fetch_hpa_genes"),
        settings=lambda wildcards: canonical_json(source_settings(wildcards.source)),
        # The user's own table is no input: where it is gone, what was made of it stays.
        own_table=lambda wildcards: genes_digest(wildcards.source),
        downloads=HPA_DOWNLOADS,
    shell:
        "python $HPALOC/fetch_hpa_genes.py --settings {params.settings:q}"
        ' --downloads {params.downloads} --network "$HPALOC_NETWORK" --genes {output.genes}'
        " > {log} 2>&1"


rule fetch_hpa_entries:
    input:
        genes=f"{ATLAS}/genes.csv",
    output:
        entries=f"{ATLAS}/entries.csv",
        digest=f"{ATLAS}/entries.sha256",
    log:
        f"{SOURCES}/{{source}}/logs/fetch_hpa_entries.log",
    wildcard_constraints:
        source=sources_of_kind("hpa"),
    localrule: True
    conda:
        "../../envs/fetch.yaml"
    resources:
        downloads=1,
    params:
        code=code_digest("fetch_hpa_entries"),
        downloads=HPA_DOWNLOADS,
    shell:
        "python $HPALOC/fetch_hpa_entries.py --genes {input.genes} --downloads {params.downloads}"
        ' --network "$HPALOC_NETWORK" --entries {output.entries} --digest {output.digest}'
        " > {log} 2>&1"


rule index_hpa:
    input:
        unpack(atlas_entries),
    output:
        index=f"{ATLAS}/index.parquet",
        digest=f"{ATLAS}/index.sha256",
        left_out=f"{ATLAS}/left_out.csv",
    log:
        f"{SOURCES}/{{source}}/logs/index_hpa.log",
    benchmark:
        f"{SOURCES}/{{source}}/benchmarks/index_hpa.tsv"
    wildcard_constraints:
        source=sources_of_kind("hpa"),
    conda:
        "../../envs/images.yaml"
    threads: 8
    resources:
        mem_mb=attempt_scaled(4_000),
        runtime=attempt_scaled(120),
    params:
        code=code_digest("index_hpa"),
        bad_entries=lambda wildcards: config["sources"][wildcards.source]["bad_entries"],
        # The user's own list is not an input: where it is gone, what was made of it stays.
        read=entries_arguments,
    shell:
        "python $HPALOC/index_hpa.py {params.read} --bad-entries {params.bad_entries}"
        " --index {output.index} --digest {output.digest} --left-out {output.left_out}"
        " --workers {threads} > {log} 2>&1"
        # Snakemake shows the logs of failed jobs only.
        " && {{ grep WARNING {log} >&2 || true; }}"


rule select_hpa:
    input:
        unpack(kept_apart_from),
        index=ancient(f"{ATLAS}/index.parquet"),
        index_digest=f"{ATLAS}/index.sha256",
    output:
        images=f"{ATLAS}/images.parquet",
        digest=f"{ATLAS}/images.sha256",
        left_out=f"{ATLAS}/not_selected.csv",
    log:
        f"{SOURCES}/{{source}}/logs/select_hpa.log",
    wildcard_constraints:
        source=sources_of_kind("hpa"),
    conda:
        "../../envs/images.yaml"
    params:
        code=code_digest("select_hpa"),
        settings=lambda wildcards: canonical_json(source_settings(wildcards.source)),
        # Nor are a list of ids and a table that genes are drawn from.
        own_files=lambda wildcards: selection_digest(wildcards.source),
        other=lambda wildcards, input: (
            f"--other-index {input.other}" if "other" in input.keys() else ""
        ),
    shell:
        "python $HPALOC/select_hpa.py --index {input.index} --settings {params.settings:q}"
        " {params.other} --images {output.images} --digest {output.digest}"
        " --left-out {output.left_out} > {log} 2>&1"
        " && {{ grep WARNING {log} >&2 || true; }}"


rule fetch_hpa_images:
    input:
        images=ancient(f"{ATLAS}/images.parquet"),
        digest=f"{ATLAS}/images.sha256",
    output:
        fetched=f"{ATLAS}/fetched_{{shard}}.parquet",
    log:
        f"{SOURCES}/{{source}}/logs/fetch_hpa_images/{{shard}}.log",
    wildcard_constraints:
        source=sources_of_kind("hpa"),
    localrule: True
    conda:
        "../../envs/fetch.yaml"
    resources:
        downloads=1,
    params:
        code=code_digest("fetch_hpa_images"),
        settings=lambda wildcards: canonical_json(source_settings(wildcards.source)),
        shard=lambda wildcards: int(wildcards.shard),
        shards=lambda wildcards: fetch_count(wildcards.source),
        downloads=HPA_DOWNLOADS,
    shell:
        "python $HPALOC/fetch_hpa_images.py --images {input.images} --shard {params.shard}"
        " --shards {params.shards} --settings {params.settings:q} --downloads {params.downloads}"
        ' --network "$HPALOC_NETWORK" --fetched {output.fetched} > {log} 2>&1'


rule collect_hpa_images:
    input:
        images=ancient(f"{ATLAS}/images.parquet"),
        digest=f"{ATLAS}/images.sha256",
        fetched=lambda wildcards: numbered(
            f"{SOURCES}/{wildcards.source}/atlas/fetched_{{}}.parquet",
            fetch_count(wildcards.source),
        ),
    output:
        index=f"{SOURCES}/{{source}}/raw/index.parquet",
        digest=f"{SOURCES}/{{source}}/raw/index.sha256",
        settings=f"{SOURCES}/{{source}}/raw/settings.json",
        missing=f"{SOURCES}/{{source}}/raw/missing.csv",
    log:
        f"{SOURCES}/{{source}}/logs/collect_hpa_images.log",
    wildcard_constraints:
        source=sources_of_kind("hpa"),
    localrule: True
    conda:
        "../../envs/fetch.yaml"
    params:
        code=code_digest("collect_hpa_images"),
        settings=lambda wildcards: canonical_json(source_settings(wildcards.source)),
        downloads=HPA_DOWNLOADS,
    shell:
        "python $HPALOC/collect_hpa_images.py --name {wildcards.source}"
        " --settings {params.settings:q} --images {input.images} --fetched {input.fetched}"
        " --downloads {params.downloads} --index {output.index} --digest {output.digest}"
        " --settings-out {output.settings} --missing {output.missing} > {log} 2>&1"
        # Snakemake shows the logs of failed jobs only.
        " && {{ grep WARNING {log} >&2 || true; }}"


rule fetch_weights:
    output:
        weights="results/weights/{network}.safetensors",
        digest="results/weights/{network}.sha256",
    log:
        "results/logs/fetch_weights/{network}.log",
    localrule: True
    conda:
        "../../envs/train.yaml"
    resources:
        downloads=1,
    params:
        code=code_digest("fetch_weights"),
        downloads=f"{DOWNLOADS}/weights",
    shell:
        "python $HPALOC/fetch_weights.py --network {wildcards.network}"
        " --downloads {params.downloads} --weights {output.weights} --digest {output.digest}"
        " > {log} 2>&1"
