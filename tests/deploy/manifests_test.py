#!/usr/bin/env python3
"""The manifests of deploy/kubernetes and deploy/container: what refers to something finds it, and the programs accept
what they are told, up to starting.

Usage: manifests_test.py DIRECTORY_OF_THE_PROGRAMS SOURCE_TREE
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import yaml

BIN, TREE = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
KUBERNETES = TREE / "deploy/kubernetes"
MODEL = str(TREE / "models/demo")
# --mpi-ports of the worker: its default, which no manifest changes.
MPI_PORTS = tuple(int(port) for port in re.search(r'--mpi-ports TEXT="(\d+)-(\d+)"', subprocess.run(
    [BIN / "longshelf-worker", "--help"], capture_output=True, text=True, check=True).stdout).groups())


def documents(path):
    return [d for d in yaml.safe_load_all(path.read_text(encoding="utf-8")) if d]


def values_of(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def pod_templates(document):
    """Of a workload: its pods, or the first pod of each group and the others."""
    spec = document["spec"]
    group = spec.get("leaderWorkerTemplate")
    return [group["leaderTemplate"], group["workerTemplate"]] if group else [spec["template"]]


def seconds(duration):
    return float(re.fullmatch(r"([\d.]+)s", duration).group(1))


class Manifests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.secrets = pathlib.Path(directory.name, "secrets")
        subprocess.run([TREE / "deploy/secrets.sh", cls.secrets], check=True, capture_output=True)
        base = KUBERNETES / "base"
        kustomization, = documents(base / "kustomization.yaml")
        cls.base = [d for name in kustomization["resources"] for d in documents(base / name)]
        cls.values = values_of(base / "values.env")
        cls.workloads = [d for d in cls.base if d["kind"] in ("Deployment", "StatefulSet", "LeaderWorkerSet")]
        cls.templates = [template for workload in cls.workloads for template in pod_templates(workload)]

    def accepts(self, words):
        """The program reads its options, files and checks, and prints what it would run with."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LONGSHELF_")}
        run = subprocess.run([BIN / words[0], *words[1:], "--print-config"], capture_output=True, text=True,
                             check=False, env=environment)
        self.assertEqual(run.returncode, 0, f"{words}\n{run.stderr}")

    def test_secrets_are_made_once_and_for_their_owner_only(self):
        before = {path.name: path.read_text(encoding="utf-8") for path in self.secrets.iterdir()}
        self.assertEqual(set(before), {"token", "admin-token", "tenant-secret", "api-keys"})
        subprocess.run([TREE / "deploy/secrets.sh", self.secrets], check=True, capture_output=True)
        for path in self.secrets.iterdir():
            self.assertEqual(path.read_text(encoding="utf-8"), before[path.name])
            self.assertEqual(path.stat().st_mode & 0o077, 0)

    def test_everything_that_a_kustomization_names_is_there(self):
        for path in KUBERNETES.rglob("kustomization.yaml"):
            kustomization, = documents(path)
            named = [*(name for key in ("resources", "components", "configurations")
                       for name in kustomization.get(key, [])),
                     *(p["path"] for p in kustomization.get("patches", []) + kustomization.get("replacements", [])
                       if "path" in p),
                     *(env for g in kustomization.get("configMapGenerator", []) for env in g.get("envs", []))]
            self.assertTrue(named)
            for name in named:
                self.assertTrue((path.parent / name).exists(), f"{path}: {name}")

    def test_the_base_has_every_kind_that_is_promised(self):
        kinds = {(d["kind"], d["metadata"]["name"]) for d in self.base}
        for part, kind in (("router", "Deployment"), ("worker", "LeaderWorkerSet"), ("store", "StatefulSet")):
            self.assertIn((kind, f"longshelf-{part}"), kinds)
            self.assertIn(("PodDisruptionBudget", f"longshelf-{part}"), kinds)
        self.assertIn(("NetworkPolicy", "deny-all"), kinds)

    def test_values_name_as_many_workers_as_there_are(self):
        for path in KUBERNETES.rglob("values.env"):
            values = {**self.values, **values_of(path)}
            self.assertEqual(set(values), set(self.values), f"{path} sets what nothing reads")
            workers = [f"longshelf-worker-{i}.longshelf-worker:7300" for i in range(int(values["WORKER_REPLICAS"]))]
            self.assertEqual(values["WORKERS"], ",".join(workers), path)

    def test_every_value_is_used_and_replacements_hit(self):
        used = set()
        for workload in self.workloads:
            used |= set(re.findall(r"\$\((\w+)\)", str(workload)))
        replacements, = documents(KUBERNETES / "components/sizes/replacements.yaml")
        by_name = {(d["kind"], d["metadata"]["name"]): d for d in self.base}
        for replacement in replacements:
            key = replacement["source"]["fieldPath"].removeprefix("data.")
            used.add(key)
            for target in replacement["targets"]:
                document = by_name[target["select"]["kind"], target["select"]["name"]]
                for path in target["fieldPaths"]:
                    self.assertEqual(str(self.reach(document, path)), self.values[key], f"{path}: what the base has")
        self.assertEqual(set(self.values) - used, set())
        self.assertLessEqual(used, set(self.values) | {"POD_NAME", "POD_IP"})

    @staticmethod
    def reach(value, path):
        for step in re.findall(r"\[name=\w+\]|[^.\[\]]+", path):
            if step.startswith("["):
                value, = [item for item in value if item["name"] == step[6:-1]]
            else:
                value = value[int(step)] if isinstance(value, list) else value[step]
        return value

    def test_programs_accept_what_pods_tell_them(self):
        for overlay in ("base", "overlays/demo", "overlays/flash", "overlays/pro"):
            values = {**self.values, **values_of(KUBERNETES / overlay / "values.env"), "POD_NAME": "longshelf-worker-0",
                      "POD_IP": "10.0.0.9", "MODEL": MODEL}
            for template in self.templates:
                container, = template["spec"]["containers"]
                words = [re.sub(r"\$\((\w+)\)", lambda m, v=values: v[m.group(1)], word)
                         for word in container["command"] + container["args"]]
                self.accepts([word.replace("/etc/longshelf/secrets", str(self.secrets)) for word in words])

    def test_pods_are_closed_and_their_parts_fit(self):
        for workload, template in [(w, t) for w in self.workloads for t in pod_templates(w)]:
            pod = template["spec"]
            container, = pod["containers"]
            name = container["name"]
            self.assertTrue(pod["securityContext"]["runAsNonRoot"], name)
            self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertEqual(container["securityContext"]["capabilities"], {"drop": ["ALL"]})
            self.assertTrue(container["securityContext"]["readOnlyRootFilesystem"])
            claims = [c["metadata"]["name"] for c in workload["spec"].get("volumeClaimTemplates", [])]
            self.assertEqual({m["name"] for m in container["volumeMounts"]},
                             {v["name"] for v in pod["volumes"]} | set(claims))
            ports = {p["name"]: p["containerPort"] for p in container["ports"]}
            listening = {int(word.rpartition(":")[2]) for word in container["args"]
                         if re.match(r"--[a-z-]*listen=0", word)}
            self.assertEqual(set(ports.values()), listening, name)
            for probe in ("livenessProbe", "readinessProbe"):
                self.assertIn(container[probe]["httpGet"]["port"], ports)
            self.assertEqual(container["readinessProbe"]["httpGet"]["path"], "/readyz")
            self.assertEqual(container["livenessProbe"]["httpGet"]["path"], "/livez")
            drain, = [w.partition("=")[2] for w in container["args"] if w.startswith("--drain-timeout=")]
            before = float((container.get("lifecycle") or {"preStop": {"exec": {"command": ["sleep", "0"]}}})
                           ["preStop"]["exec"]["command"][1])
            # A router parks for 5 s beyond its drain, a worker leaves its group in 8 s.
            self.assertGreaterEqual(pod["terminationGracePeriodSeconds"], before + seconds(drain) + 8, name)

    def test_selectors_select_pods_and_policies_open_ports_that_there_are(self):
        labels = [template["metadata"]["labels"] for template in self.templates]
        ports = {}
        for template in self.templates:
            for port in template["spec"]["containers"][0]["ports"]:
                ports[port["name"]] = ports[port["containerPort"]] = True

        def check(value):
            if isinstance(value, dict):
                for key, item in value.items():
                    selects = key in ("selector", "podSelector", "labelSelector")
                    wanted = (item or {}).get("matchLabels") if selects else None
                    if wanted and "k8s-app" not in wanted:
                        self.assertTrue(any(wanted.items() <= have.items() for have in labels), wanted)
                    if key == "port" and item != 53 and not isinstance(item, dict):
                        self.assertTrue(item in ports or item in (80, MPI_PORTS[0]), item)
                    if key == "endPort":
                        self.assertEqual((value["port"], item), MPI_PORTS)
                    check(item)
            elif isinstance(value, list):
                for item in value:
                    check(item)
        check(self.base)

    @unittest.skipUnless(shutil.which("kubectl"), "kubectl is not installed, and no package of Debian 12 has Kustomize")
    def test_kustomize_builds_and_puts_the_values_in_place(self):
        for overlay, replicas, size in (("demo", 2, 1), ("flash", 4, 1), ("pro", 1, 4)):
            built = subprocess.run(["kubectl", "kustomize", KUBERNETES / "overlays" / overlay], capture_output=True, text=True,
                                   check=True)
            by_kind = {d["kind"]: d for d in yaml.safe_load_all(built.stdout)}
            values = {**self.values, **values_of(KUBERNETES / "overlays" / overlay / "values.env")}
            worker = by_kind["LeaderWorkerSet"]
            self.assertEqual(worker["spec"]["replicas"], replicas)
            self.assertEqual(worker["spec"]["leaderWorkerTemplate"]["size"], size)
            for template in pod_templates(worker):
                container, = template["spec"]["containers"]
                self.assertEqual(container["resources"]["limits"]["memory"], values["WORKER_POD_MEMORY"])
                self.assertEqual({m["name"] for m in container["volumeMounts"]},
                                 {v["name"] for v in template["spec"]["volumes"]})
            container, = pod_templates(worker)[0]["spec"]["containers"]
            self.assertEqual(container["envFrom"][0]["configMapRef"]["name"], by_kind["ConfigMap"]["metadata"]["name"])

    def test_compose_is_whole_and_its_programs_accept_what_they_are_told(self):
        compose, = documents(TREE / "deploy/container/compose.yaml")
        dockerfile = (TREE / "deploy/container/Dockerfile").read_text(encoding="utf-8")
        self.assertEqual(set(compose["services"]), {"store-1", "store-2", "worker-1", "worker-2", "router"})
        for name, service in compose["services"].items():
            context = TREE / "deploy/container" / service["build"]["context"]
            self.assertTrue((context / service["build"]["dockerfile"]).exists())
            self.assertLessEqual(set(service["secrets"]), set(compose["secrets"]))
            self.assertLessEqual(set(service["networks"]), set(compose["networks"]))
            self.assertLessEqual(set(service.get("depends_on", {})), set(compose["services"]))
            words = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word) for word in service["command"]]
            self.assertNotRegex(" ".join(words), r"\$")
            words = [w.replace("/usr/share/longshelf/models/demo", MODEL).replace("/run/secrets", str(self.secrets))
                     for w in words]
            self.accepts(words)
            health_port = service["environment"]["HEALTH_PORT"]
            asked = [w for w in words if re.match(rf"--(admin|supervisor)-listen=127.0.0.1:{health_port}$", w)]
            self.assertEqual(len(asked), 1, name)
        for copied in re.findall(r"^COPY (deploy/\S+)", dockerfile, re.M):
            self.assertTrue((TREE / copied).exists(), copied)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
