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
