#!/usr/bin/env python3
"""Standard input: the documents of one build. Each is held against the schema of its kind, strictly, in each version.

Usage: validate.py WHAT VERSION...; needs kubernetes-validate. A LeaderWorkerSet is not Kubernetes' own: its pods are
held against the schema of pods.
"""

import sys

import kubernetes_validate
import yaml


def checked_forms(document):
    if document["kind"] != "LeaderWorkerSet":
        return [document]
    templates = [document["spec"]["leaderWorkerTemplate"][name] for name in ("leaderTemplate", "workerTemplate")]
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": "worker"},
             "spec": template["spec"]} for template in templates]


def main():
    what, versions = sys.argv[1], sys.argv[2:]
    documents = [document for document in yaml.safe_load_all(sys.stdin) if document]
    for version in versions:
        for document, form in [(document, form) for document in documents for form in checked_forms(document)]:
            try:
                kubernetes_validate.validate(form, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                name = f"{document['kind']} {document['metadata']['name']}"
                sys.exit(f"{what}: {name}: {'.'.join(map(str, error.path))}: {error.message}")
        print(f"{what}: {len(documents)} resources fit Kubernetes {version}")


if __name__ == "__main__":
    main()
