"""Each check can fail: mistakes that people make, planted one at a time, are all found.

The first seventeen are those that linters by schema miss nearly all of, the others what is known
of Ray and KubeRay to go wrong in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.k8s.mistakes import mistakes
from tests.k8s.rendered import Object, called, objects
from tests.k8s.schemas import booleans_of_yaml_1_1

Objects = list[Object]
Plant = Callable[[Objects], Any]


def template(of: Objects, kind: str = "StatefulSet", name: str = "bitsift-shard") -> Object:
    found: Object = called(of, kind, name)["spec"]["template"]
    return found


def spec(of: Objects, kind: str = "StatefulSet", name: str = "bitsift-shard") -> Object:
    found: Object = called(of, kind, name)["spec"]
    return found


def first(of: Objects, kind: str = "StatefulSet", name: str = "bitsift-shard") -> Object:
    found: Object = template(of, kind, name)["spec"]["containers"][0]
    return found


def router(of: Objects) -> Object:
    return first(of, "Deployment", "bitsift-router")


def ray(of: Objects) -> Object:
    return spec(of, "RayCluster", "bitsift")


def head_group(of: Objects) -> Object:
    found: Object = ray(of)["headGroupSpec"]
    return found


def group(of: Objects) -> Object:
    found: Object = ray(of)["workerGroupSpecs"][0]
    return found


def cron(of: Objects) -> Object:
    return spec(of, "CronJob", "bitsift-backup")


def without(args: list[str], *starts: str) -> list[str]:
    return [word for word in args if not word.startswith(starts)]


def volume(pod: Object, name: str) -> Object:
    found: Object
    (found,) = (one for one in pod["volumes"] if one["name"] == name)
    return found


def environment(of: Objects) -> Object:
    found: Object = called(of, "ConfigMap", "bitsift-environment")["data"]
    return found


def typo(of: Objects) -> None:
    first(of)["imagePulPolicy"] = first(of).pop("imagePullPolicy")


def drop_dns(of: Objects) -> None:
    of.remove(called(of, "NetworkPolicy", "dns"))


COMMON: dict[str, Plant] = {
    "a field's name has a typo": typo,
    "a variable is a number": lambda of: first(of)["env"].append({"name": "X", "value": 1}),
    "an API that was removed": lambda of: called(of, "PodDisruptionBudget", "bitsift-shard").update(
        apiVersion="policy/v1beta1"
    ),
    "a selector that matches nothing": lambda of: spec(of)["selector"]["matchLabels"].update(
        {"app.kubernetes.io/component": "shards"}
    ),
    "a port beyond the last": lambda of: router(of)["ports"][0].update(containerPort=80_800),
    "a request above its limit": lambda of: first(of)["resources"]["requests"].update(
        memory="99Gi"
    ),
    "a volume that is not there": lambda of: first(of)["volumeMounts"].append(
        {"name": "dta", "mountPath": "/data"}
    ),
    "a quantity that is none": lambda of: spec(of)["volumeClaimTemplates"][0]["spec"]["resources"][
        "requests"
    ].update(storage="10Gb"),
    "a budget of both kinds": lambda of: spec(of, "PodDisruptionBudget").update(minAvailable=1),
    "a policy of type Ingres": lambda of: spec(of, "NetworkPolicy", "http").update(
        policyTypes=["Ingres"]
    ),
    "a minute that no hour has": lambda of: cron(of).update(schedule="61 2 * * *"),
    "a job that restarts always": lambda of: cron(of)["jobTemplate"]["spec"]["template"][
        "spec"
    ].update(restartPolicy="Always"),
    "a scaler from more to fewer": lambda of: spec(
        of, "HorizontalPodAutoscaler", "bitsift-router"
    ).update(minReplicas=7),
    "a privileged container": lambda of: first(of)["securityContext"].update(privileged=True),
    "an image without a tag": lambda of: first(of).update(image="bitsift-shard"),
    "a probe of a port that is not there": lambda of: router(of)["readinessProbe"][
        "httpGet"
    ].update(port="htp"),
    "an end that takes longer than the grace period": lambda of: first(of).update(
        lifecycle={"preStop": {"exec": {"command": ["sleep", "90"]}}}
    ),
}
OF_RAY: dict[str, Plant] = {
    "a control store whose path is set twice": lambda of: head_group(of)["template"]["spec"][
        "containers"
    ][0]["env"].append({"name": "RAY_gcs_storage_path", "value": "/data/gcs"}),
    "nodes that do not wait for a head": lambda of: environment(of).pop(
        "RAY_gcs_rpc_server_reconnect_timeout_s"
    ),
    "authOptions without a mode": lambda of: ray(of)["authOptions"].pop("mode"),
    "no rayVersion": lambda of: ray(of).pop("rayVersion"),
    "pods of the operator without preStop": lambda of: group(of)["template"]["spec"]["containers"][
        0
    ].pop("lifecycle"),
    "labels in rayStartParams": lambda of: group(of)["rayStartParams"].update(labels="a=b"),
    "/dev/shm as large as the container": lambda of: volume(template(of)["spec"], "shm")[
        "emptyDir"
    ].update(sizeLimit="16Gi"),
    "a root that is read only, and no /tmp": lambda of: first(of)["volumeMounts"].remove(
        {"name": "tmp", "mountPath": "/tmp"}
    ),
    "a denial of everything, DNS too": drop_dns,
    "liveness that asks for the shards": lambda of: router(of).update(
        livenessProbe={"httpGet": {"path": "/readyz", "port": "http"}}
    ),
    "a budget that waits for pods that cannot get ready": lambda of: spec(
        of, "PodDisruptionBudget"
    ).pop("unhealthyPodEvictionPolicy"),
    "fewer routers than the least": lambda of: group(of).update(replicas=1),
}
MORE: dict[str, Plant] = {
    "a port beyond the last in a policy": lambda of: spec(of, "NetworkPolicy", "http")["ingress"][
        0
    ]["ports"][0].update(port=99_999),
    "a policy of protocol HTTP": lambda of: spec(of, "NetworkPolicy", "http")["ingress"][0][
        "ports"
    ][0].update(protocol="HTTP"),
    "a policy that allows everything": lambda of: spec(of, "NetworkPolicy", "ray")["ingress"][
        0
    ].pop("from"),
    "a policy for no pod": lambda of: spec(of, "NetworkPolicy", "http")["podSelector"].update(
        matchLabels={"app.kubernetes.io/component": "routers"}
    ),
    "a policy for callers that are not there": lambda of: spec(of, "NetworkPolicy", "ray-head")[
        "ingress"
    ][0]["from"][0]["podSelector"].update(matchLabels={"bitsift-ray": "yes"}),
    "a policy that opens a port that nothing has": lambda of: spec(of, "NetworkPolicy", "http")[
        "ingress"
    ][0]["ports"][0].update(port=8_001),
    "a policy that closes the ports of searches": lambda of: spec(of, "NetworkPolicy", "ray")[
        "egress"
    ][0]["ports"].pop(),
    "numbers in rayStartParams": lambda of: head_group(of)["rayStartParams"].update(
        {"num-cpus": 0}
    ),
    "a group from more to fewer": lambda of: group(of).update(minReplicas=7),
    "a command that the operator ignores": lambda of: group(of)["template"]["metadata"].pop(
        "annotations"
    ),
    "a control store in RAM": lambda of: ray(of).pop("gcsFaultToleranceOptions"),
    "random ports": lambda of: first(of).update(
        args=without(first(of)["args"], "--node-manager-port")
    ),
    "a process for each processor of the machine": lambda of: first(of).update(
        args=without(first(of)["args"], "--num-cpus")
    ),
    "no token": lambda of: environment(of).update(RAY_AUTH_MODE="disabled"),
    "shards one after the other": lambda of: spec(of).pop("podManagementPolicy"),
    "names for pods that are ready only": lambda of: spec(of, "Service").pop(
        "publishNotReadyAddresses"
    ),
    "volumes that go with their set": lambda of: spec(of).pop(
        "persistentVolumeClaimRetentionPolicy"
    ),
    "a claim without its kind": lambda of: spec(of)["volumeClaimTemplates"][0].pop("kind"),
    "memory that may be taken away": lambda of: first(of)["resources"]["requests"].update(
        memory="1Gi"
    ),
    "a container that runs as root": lambda of: first(of)["securityContext"].update(runAsUser=0),
    "no time for a slow start": lambda of: first(of).pop("startupProbe"),
    "all copies of a shard at once": lambda of: spec(of, "PodDisruptionBudget").update(
        maxUnavailable=2
    ),
    "more routers than the spec lets answer": lambda of: spec(
        of, "HorizontalPodAutoscaler", "bitsift-router"
    ).update(maxReplicas=7),
    "a Secret that nobody makes": lambda of: volume(
        template(of, "Deployment", "bitsift-router")["spec"], "keys"
    )["secret"].update(secretName="keys"),
    "a service of no pods": lambda of: spec(of, "Service", "bitsift-shard")["selector"].update(
        {"app.kubernetes.io/component": "shards"}
    ),
    "a namespace that lets pods do anything": lambda of: called(of, "Namespace", "bitsift")[
        "metadata"
    ]["labels"].pop("pod-security.kubernetes.io/enforce"),
    "a backup that may not reach the routers": lambda of: cron(of)["jobTemplate"]["spec"][
        "template"
    ]["metadata"]["labels"].pop("bitsift-client"),
}
PLANTED = COMMON | OF_RAY | MORE
OF_KUBERAY = {"head_group", "group", "ray"}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_mistake_is_found(name: str) -> None:
    is_of_kuberay = OF_KUBERAY.intersection(PLANTED[name].__code__.co_names)
    of = objects("kuberay" if is_of_kuberay else "production")
    PLANTED[name](of)
    assert list(mistakes(of))


def test_as_many_are_planted_as_are_known() -> None:
    assert (len(COMMON), len(OF_RAY)) == (17, 12)


def test_a_boolean_of_yaml_1_1_is_found_unless_it_is_quoted() -> None:
    assert list(booleans_of_yaml_1_1("env:\n  - name: N\n    value: on\n")) == [
        "line 2: N is a boolean of YAML 1.1",
        "line 3: on is a boolean of YAML 1.1",
    ]
    assert not list(booleans_of_yaml_1_1('env:\n  - name: "N"\n    value: true\n'))
