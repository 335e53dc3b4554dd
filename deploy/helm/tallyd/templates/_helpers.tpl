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
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
securityContext:
  {{- $capabilities := dict "drop" (list "ALL") "add" (list "BPF" "NET_ADMIN" "PERFMON") }}
  {{- $ours := dict "privileged" false "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" $capabilities }}
  {{- toYaml (mergeOverwrite $ours (deepCopy (.Values.securityContext | default dict))) | nindent 2 }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  - { name: config, mountPath: /etc/tallyd, readOnly: true }
  - { name: state, mountPath: /var/lib/tallyd }
  - { name: run, mountPath: /run/tallyd }
  - { name: bpf, mountPath: /sys/fs/bpf }
  - { name: cgroup, mountPath: /host/sys/fs/cgroup, readOnly: true }
{{- end -}}
{{- /* Where others reach the metrics: the port; nothing where the config says `off`, or the loopback alone. */ -}}
{{- define "tallyd.metricsPort" -}}
{{- $listen := dig "agent" "metrics" "listen" "127.0.0.1:9464" .Values.config | toString -}}
{{- if eq $listen "false" -}}
{{- fail "config.agent.metrics.listen: `off` wants quotes in YAML" -}}
{{- end -}}
{{- if not (or (eq $listen "off") (hasPrefix "127." $listen) (hasPrefix "localhost:" $listen) (hasPrefix "[::1]:" $listen)) -}}
{{ regexFind "[0-9]+$" $listen }}
{{- end -}}
{{- end -}}
{{- /* What of the config comes into force by a restart alone; the rest the agent reloads by itself. */ -}}
{{- define "tallyd.restartFor" -}}
{{- $agent := .Values.config.agent | default dict -}}
{{- pick $agent "state_dir" "pin_dir" "runtime_dir" "limits" "fleet_secret" | toJson -}}
{{- dig "metrics" "listen" "" $agent -}}
{{- end -}}
