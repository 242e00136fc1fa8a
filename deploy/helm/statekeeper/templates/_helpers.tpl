{{- define "statekeeper.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "statekeeper.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "statekeeper.labels" -}}
{{ include "statekeeper.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "statekeeper.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $appservice := $config.appservice -}}
{{- if not $appservice.address -}}
{{- $_ := set $appservice "address" (printf "http://%s.%s.svc:29330" (include "statekeeper.fullname" .) .Release.Namespace) -}}
{{- end -}}
{{- $_ := set $appservice "registration" "/etc/statekeeper/secret/registration.yaml" -}}
{{- $_ := set $config "store" (dict "url" "sqlite:/data/statekeeper.db" "passphrase_file" "/etc/statekeeper/secret/passphrase") -}}
{{- toYaml $config -}}
{{- end -}}
