{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}
{{- define "tallyd.selector" -}}
app.kubernetes.io/component: agent
app.kubernetes.io/name: tallyd
{{- end -}}
{{- define "tallyd.labels" -}}
{{ include "tallyd.selector" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}
{{- /* What the agent and what unhooks after it have in common. */ -}}
{{- define "tallyd.container" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  - name: NODE_NAME
    valueFrom:
      fieldRef:
        fieldPath: spec.nodeName
securityContext:
  privileged: false
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
    add: [BPF, NET_ADMIN, PERFMON]
resources:
  {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  - { name: config, mountPath: /etc/tallyd, readOnly: true }
  - { name: state, mountPath: /var/lib/tallyd }
  - { name: run, mountPath: /run/tallyd }
  - { name: bpf, mountPath: /sys/fs/bpf }
  - { name: cgroup, mountPath: /host/sys/fs/cgroup, readOnly: true }
{{- end -}}
