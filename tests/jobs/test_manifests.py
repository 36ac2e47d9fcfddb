"""jobs/: what is written there is valid, and knows the exit codes of experiments."""

import copy
import math
import re
import signal
import subprocess
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from experiments import _cluster

ROOT = Path(__file__).resolve().parents[2]
JOBS = ROOT / "jobs"
# What an experiment's process ends with, and what a SIGKILL looks like.
BAD_INPUT, PEER_GONE = 2, _cluster.LOST
KILLED, STOPPED = 128 + signal.SIGKILL, 128 + signal.SIGTERM
JOBSETS = ["kubernetes-gpu", "kubernetes-tpu"]
MANIFESTS = [*JOBSETS, "kubernetes-job"]
FILES = sorted(path.name for path in JOBS.glob("*.yaml"))
# the oldest Kubernetes that the files are said to work with, and the newest
VERSIONS = ["1.31", kubernetes_validate.latest_version()]


def closed(required="", **properties):
    """Return the schema of an object that has no other properties."""
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


def one_of(*values):
    return {"enum": list(values)}


TEXT, COUNT, FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
TEXTS = {"type": "array", "items": TEXT, "uniqueItems": True}
RULE = closed(
    "name action",
    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    action=one_of("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"),
    onJobFailureReasons=TEXTS,
    onJobFailureMessagePatterns=TEXTS,
)
# What is used here of JobSet's schema (jobset.x-k8s.io/v1alpha2, as of 0.10 to 0.12),
# which no package has. A Job's template is held against the schema of Kubernetes.
JOBSET = closed(
    "apiVersion kind metadata spec",
    apiVersion=one_of("jobset.x-k8s.io/v1alpha2"),
    kind=one_of("JobSet"),
    metadata=closed("name", name=TEXT, annotations={"type": "object"}),
    spec=closed(
        "replicatedJobs failurePolicy network",
        coordinator=closed(
            "replicatedJob", replicatedJob=TEXT, jobIndex=COUNT, podIndex=COUNT
        ),
        network=closed(enableDNSHostnames=FLAG, publishNotReadyAddresses=FLAG),
        failurePolicy=closed(
            "maxRestarts rules",
            maxRestarts=COUNT,
            restartStrategy=one_of("Recreate", "BlockingRecreate"),
            rules={"type": "array", "items": RULE},
        ),
        replicatedJobs={
            "type": "array",
            "items": closed(
                "name template", name=TEXT, replicas=COUNT, template={"type": "object"}
            ),
        },
    ),
)


def documents(name):
    return list(yaml.safe_load_all((JOBS / name).read_text()))


def find(name, kind):
    (found,) = [x for x in documents(f"{name}.yaml") if x["kind"] == kind]
    return found


def job_of(document):
    """Return the Job that a document is or makes."""
    if document["kind"] == "Job":
        return document
    (replicated,) = document["spec"]["replicatedJobs"]
    made = {"metadata": {"name": replicated["name"]}} | replicated["template"]
    return {"apiVersion": "batch/v1", "kind": "Job"} | made


def check(document, version):
    """Raise if an API server would not take the document."""
    if document["kind"] == "JobSet":
        jsonschema.Draft202012Validator(JOBSET).validate(document)
        document = job_of(document)
    kubernetes_validate.validate(document, version, strict=True)


@pytest.fixture(params=MANIFESTS)
def manifest(request):
    kind = "JobSet" if request.param in JOBSETS else "Job"
    return find(request.param, kind)


@pytest.fixture
def job(manifest):
    return job_of(manifest)["spec"]


@pytest.fixture
def pod(job):
    return job["template"]["spec"]


@pytest.fixture
def container(pod):
    (only,) = pod["containers"]
    return only


def mounted(pod, container):
    """Return where the claim of kubernetes-storage.yaml is mounted."""
    claim = find("kubernetes-storage", "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    (volume,) = [x for x in pod["volumes"] if "persistentVolumeClaim" in x]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    mounts = {x["name"]: x["mountPath"] for x in container["volumeMounts"]}
    return Path(mounts[volume["name"]])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", FILES)
def test_valid(name, version):
    for document in documents(name):
        check(document, version)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda x: job_of(x)["spec"]["template"]["spec"].update(restartpolicy="Never"),
        lambda x: job_of(x)["spec"].update(backoffLimit="none"),
        lambda x: x["spec"].update(failurepolicy={}),
    ],
)
def test_mistakes_are_found(manifest, break_it):
    broken = copy.deepcopy(manifest)
    break_it(broken)
    with pytest.raises(jsonschema.ValidationError):
        check(broken, VERSIONS[-1])


def pod_failure(rules, code, disrupted):
    """Return the action and message of the first rule that a failed pod matches."""
    for index, rule in enumerate(rules):
        match = f"matching {rule['action']} rule at index {index}"
        if "onPodConditions" in rule:
            (condition,) = rule["onPodConditions"]
            wanted = {"type": "DisruptionTarget", "status": "True"}
            if disrupted and condition == wanted:
                return rule["action"], f"Pod a/b has condition DisruptionTarget {match}"
        elif code in rule["onExitCodes"]["values"]:
            assert rule["onExitCodes"]["operator"] == "In"
            said = f"Container main for pod a/b failed with exit code {code} {match}"
            return rule["action"], said
    return "Count", "Job has reached the specified backoff limit"


def job_failure(jobset, code, disrupted):
    """Return what a JobSet does when a pod of its fails so."""
    job = job_of(jobset)["spec"]
    assert job["backoffLimit"] == 0  # so that a failure that counts fails the Job
    action, message = pod_failure(job["podFailurePolicy"]["rules"], code, disrupted)
    reasons = {"FailJob": "PodFailurePolicy", "Count": "BackoffLimitExceeded"}
    for rule in jobset["spec"]["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if reasons[action] in rule["onJobFailureReasons"] and any(
            re.search(pattern, message) for pattern in patterns
        ):
            return rule["action"]
    return "RestartJobSet"


@pytest.mark.parametrize("name", JOBSETS)
@pytest.mark.parametrize(
    ("code", "disrupted", "action"),
    [
        (BAD_INPUT, False, "FailJobSet"),
        (BAD_INPUT, True, "FailJobSet"),
        (STOPPED, False, "RestartJobSetAndIgnoreMaxRestarts"),
        (STOPPED, True, "RestartJobSetAndIgnoreMaxRestarts"),
        (KILLED, True, "RestartJobSetAndIgnoreMaxRestarts"),
        (KILLED, False, "RestartJobSet"),
        (PEER_GONE, False, "RestartJobSet"),
        (1, False, "RestartJobSet"),
    ],
)
def test_jobset_restarts(name, code, disrupted, action):
    assert job_failure(find(name, "JobSet"), code, disrupted) == action


@pytest.mark.parametrize(
    ("code", "disrupted", "action"),
    [
        (BAD_INPUT, False, "FailJob"),
        (BAD_INPUT, True, "FailJob"),
        (STOPPED, False, "Ignore"),
        (PEER_GONE, False, "Ignore"),
        (KILLED, True, "Ignore"),
        (KILLED, False, "Count"),
        (1, False, "Count"),
    ],
)
def test_job_replaces(code, disrupted, action):
    job = find("kubernetes-job", "Job")["spec"]
    rules = job["podFailurePolicy"]["rules"]
    assert pod_failure(rules, code, disrupted)[0] == action
    assert job["backoffLimit"] > 0
    assert job["activeDeadlineSeconds"] > 0


def test_pods(job, pod, container):
    """Pod k is process k, is never restarted in place, and has time to save."""
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] > 1
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 60
    rules = job["podFailurePolicy"]["rules"]
    names = {x["onExitCodes"]["containerName"] for x in rules if "onExitCodes" in x}
    assert names == {container["name"]}
    codes = [
        code for x in rules for code in x.get("onExitCodes", {"values": []})["values"]
    ]
    assert sorted(codes) == [BAD_INPUT, PEER_GONE, KILLED, STOPPED]


def test_command(pod, container):
    """Python is the process that gets SIGTERM; what is written is shared."""
    *python, module = container["command"]
    assert python == ["python", "-m"]
    assert (ROOT / f"{module.replace('.', '/')}.py").exists()
    flags = dict(zip(container["args"][::2], container["args"][1::2], strict=True))
    assert set(flags) == {"--workdir", "--data-dir"}
    shared = mounted(pod, container)
    assert all(Path(flag).is_relative_to(shared) for flag in flags.values())


def test_environment(manifest, job, pod, container):
    """GPU pods are told where to meet and how many they are; TPU pods find it out."""
    told = {x["name"]: x.get("value") for x in container.get("env", [])}
    if "google.com/tpu" in container["resources"]["limits"]:
        assert not told
        return
    assert told["JAX_NUM_PROCESSES"] == str(job["completions"])
    assert "JAX_PROCESS_ID" not in told  # JOB_COMPLETION_INDEX says it
    host, port = told["JAX_COORDINATOR_ADDRESS"].split(":")
    assert {"containerPort": int(port)} in container["ports"]
    if manifest["kind"] == "Job":
        service = find("kubernetes-job", "Service")
        assert service["spec"]["clusterIP"] == "None"
        (selected,) = service["spec"]["selector"].values()
        assert selected == manifest["metadata"]["name"]
        assert pod["subdomain"] == service["metadata"]["name"]
        assert host == f"{selected}-0.{pod['subdomain']}"
    else:
        assert host == "$(COORDINATOR)"
        assert container["env"][0]["name"] == "COORDINATOR"  # before what refers to it
        (replicated,) = manifest["spec"]["replicatedJobs"]
        meets = {"replicatedJob": replicated["name"], "jobIndex": 0, "podIndex": 0}
        assert manifest["spec"]["coordinator"] == meets


def test_tpu_slice():
    """As many hosts as the topology has."""
    job = job_of(find("kubernetes-tpu", "JobSet"))["spec"]
    pod = job["template"]["spec"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    assert math.prod(map(int, topology.split("x"))) == job["completions"] * chips


@pytest.mark.parametrize("name", ["slurm.sbatch", "slurm-local.sh", "local.sh"])
def test_script_parses(name):
    subprocess.run(["bash", "-n", JOBS / name], check=True)


def test_slurm_requeues():
    text = (JOBS / "slurm.sbatch").read_text()
    (case,) = re.findall(r"^([\d |]+)\)$", text, re.MULTILINE)
    assert {int(code) for code in case.split("|")} == {PEER_GONE, KILLED, STOPPED}
    options = re.findall(r"^#SBATCH (\S+)", text, re.MULTILINE)
    assert {"--requeue", "--open-mode=append", "--signal=TERM@120"} <= set(options)
