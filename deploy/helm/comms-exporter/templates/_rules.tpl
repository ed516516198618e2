{{/* The rules as `comms-exporter rules` prints them, with prometheusRule.config as its configuration. */}}
{{- define "comms-exporter.ruleGroups" -}}
{{- $config := .Values.prometheusRule.config }}
{{- $job := default (include "comms-exporter.name" .) $config.job }}
{{- $groups := list }}
{{- range $path, $_ := .Files.Glob "files/rules/*.yml" }}
{{- range $group := ($.Files.Get $path | fromYaml).groups }}
{{- $rules := list }}
{{- range $rule := $group.rules }}
{{- if $rule.record }}
{{- $rules = concat $rules (include "comms-exporter.recordings" (dict "rule" $rule "config" $config) | fromYamlArray) }}
{{- else if not (has $rule.alert $config.disabled) }}
{{- $rules = append $rules (include "comms-exporter.alert" (dict "rule" $rule "config" $config "job" $job) | fromYaml) }}
{{- end }}
{{- end }}
{{- if $rules }}
{{- $groups = append $groups (merge (dict "rules" $rules) $group) }}
{{- end }}
{{- end }}
{{- end }}
{{- dict "groups" $groups | toYaml }}
{{- end }}

{{/* The recording rule itself; a threshold, and the same for each account that has its own. */}}
{{- define "comms-exporter.recordings" -}}
{{- $name := trimPrefix "threshold:" .rule.record }}
{{- $rules := list .rule }}
{{- if ne $name .rule.record }}
{{- with include "comms-exporter.threshold" (dict "config" .config "name" $name) }}
{{- $rules = list (merge (dict "expr" .) $.rule) }}
{{- end }}
{{- range $account, $config := .config.accounts }}
{{- with include "comms-exporter.threshold" (dict "config" $config "name" $name) }}
{{- $rules = append $rules (dict "record" $.rule.record "expr" . "labels" (dict "account" $account)) }}
{{- end }}
{{- end }}
{{- end }}
{{- toYaml $rules }}
{{- end }}

{{/* The expression of a threshold that config changes, or nothing. The objective leaves an error budget. */}}
{{- define "comms-exporter.threshold" -}}
{{- $config := default dict .config }}
{{- $value := get (default dict $config.thresholds) .name }}
{{- if and $config.objective (eq .name "comms_emails_lost:ratio_budget") }}
{{- $value = subf 1 $config.objective }}
{{- end }}
{{- if $value }}vector({{ regexReplaceAll "\\.?0+$" (float64 $value | printf "%.10f") "" }}){{ end }}
{{- end }}

{{- define "comms-exporter.alert" -}}
{{- $rule := .rule }}
{{- $expr := replace "job=\"comms-exporter\"" (printf "job=%q" .job) $rule.expr }}
{{- $labels := merge (dict) $rule.labels (default dict .config.labels) }}
{{- $annotations := dict }}
{{- with .config.runbooks }}
{{- $_ := set $annotations "runbook_url" (replace "docs/runbooks/" (printf "%s/" (regexReplaceAll "/+$" . "")) $rule.annotations.runbook_url) }}
{{- end }}
{{- with .config.dashboards }}
{{- $_ := set $annotations "dashboard_url" (printf "%s%s" (regexReplaceAll "/+$" . "") $rule.annotations.dashboard_url) }}
{{- end }}
{{- merge (dict "expr" $expr "labels" $labels "annotations" (merge $annotations $rule.annotations)) $rule | toYaml }}
{{- end }}
