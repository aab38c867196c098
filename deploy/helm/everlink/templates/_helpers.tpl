{{/* The names. They do not go by .Chart, so that they are the same in a chart that has this one as a dependency. */}}
{{- define "everlink.name" -}}
{{- (include "everlink.values" . | fromYaml).nameOverride | default "everlink" | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "everlink.fullname" -}}
{{- $values := include "everlink.values" . | fromYaml -}}
{{- if $values.fullnameOverride -}}
{{- $values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "everlink.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* This chart's values, seen from itself or from a chart that has it as a dependency under its own name. */}}
{{- define "everlink.values" -}}
{{- .Values.everlink | default .Values | toYaml -}}
{{- end -}}

{{- define "everlink.image" -}}
{{- $image := (include "everlink.values" . | fromYaml).image -}}
{{- printf "%s:%s" $image.repository ($image.tag | default "0.1.0") -}}
{{- end -}}

{{- define "everlink.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "everlink.gateway.selector" -}}
app.kubernetes.io/name: {{ include "everlink.name" . }}-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "everlink.scrape" -}}
prometheus.io/scrape: "true"
prometheus.io/port: "9900"
prometheus.io/path: /metrics
{{- end -}}

{{- define "everlink.probes" -}}
startupProbe: # configuration in, listeners bound
  httpGet:
    path: /startupz
    port: everlink-http
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: 60
readinessProbe: # not while draining, nor while a `required` upstream has no live link
  httpGet:
    path: /readyz
    port: everlink-http
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe: # everlink itself has hung; never an upstream's fault
  httpGet:
    path: /livez
    port: everlink-http
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{- end -}}
