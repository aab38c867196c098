{{/*
The sidecar for a pod of your own chart. Name this chart as a dependency, with `everlink.gateway.enabled: false` and
`everlink.sidecar.enabled: true` in your values, and in your pod template:

  metadata:
    labels:
      {{- include "everlink.sidecar.labels" . | nindent 6 }}
    annotations:
      {{- include "everlink.sidecar.annotations" . | nindent 6 }}
  spec:
    {{- include "everlink.sidecar.securityContext" . | nindent 4 }}
    initContainers:
      {{- include "everlink.sidecar.container" . | nindent 6 }}
    volumes:
      {{- include "everlink.sidecar.volumes" . | nindent 6 }}

With `everlink.sidecar.native: false` the container belongs into `containers`, before the others.
*/}}
{{- define "everlink.sidecar.labels" -}}
everlink: sidecar
{{- end -}}

{{- define "everlink.sidecar.annotations" -}}
{{- if (include "everlink.values" . | fromYaml).scrapeAnnotations }}
{{- include "everlink.scrape" . }}
{{- end }}
{{- end -}}

{{/* Of the pod, if secrets are mounted: everlink may read them, which are root's. Any other fsGroup does as well. */}}
{{- define "everlink.sidecar.securityContext" -}}
{{- $sidecar := (include "everlink.values" . | fromYaml).sidecar -}}
{{- if or $sidecar.caSecret $sidecar.tokenSecret -}}
securityContext:
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
{{- end -}}
{{- end -}}

{{- define "everlink.sidecar.container" -}}
{{- $values := include "everlink.values" . | fromYaml -}}
{{- $sidecar := $values.sidecar -}}
- name: everlink
  image: {{ include "everlink.image" . }}
  imagePullPolicy: {{ $values.image.pullPolicy }}
  {{- if $sidecar.native }}
  restartPolicy: Always # that makes it a sidecar
  {{- else }}
  lifecycle: # no preStop: everlink itself serves on, by drain.minimum and drain.quiet
    postStart: # the containers after it are started when this has ended
      exec:
        command: [/everlink, probe, started, --wait, 60s]
  {{- end }}
  args: [run, --config, /etc/everlink/config.toml]
  {{- with $sidecar.env }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - name: everlink-http
      containerPort: 9900
  {{- include "everlink.probes" . | nindent 2 }}
  resources:
    {{- toYaml $sidecar.resources | nindent 4 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
    seccompProfile:
      type: RuntimeDefault
  volumeMounts:
    - name: everlink-config # as a directory: what is mounted by subPath is never renewed
      mountPath: /etc/everlink
      readOnly: true
    - name: everlink-run
      mountPath: /run/everlink
    {{- if $sidecar.caSecret }}
    - name: everlink-ca
      mountPath: /run/secrets/everlink-ca
      readOnly: true
    {{- end }}
    {{- if $sidecar.tokenSecret }}
    - name: everlink-token
      mountPath: /run/secrets/everlink-token
      readOnly: true
    {{- end }}
{{- end -}}

{{- define "everlink.sidecar.volumes" -}}
{{- $sidecar := (include "everlink.values" . | fromYaml).sidecar -}}
- name: everlink-config
  configMap:
    name: {{ include "everlink.fullname" . }}-sidecar
- name: everlink-run
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
{{- with $sidecar.caSecret }}
- name: everlink-ca
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- with $sidecar.tokenSecret }}
- name: everlink-token
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end -}}
