{{- /* What one object becomes where several controllers share an etcd: what the overlay ha-etcd makes of it. Changes the object; writes nothing. */ -}}
{{- define "isobar.etcd" -}}
{{- $object := .object }}
{{- $etcd := .root.Values.store.etcd }}
{{- $files := "/etc/isobar-etcd" }}
{{- $is := printf "%s %s" $object.kind $object.metadata.name }}
{{- if eq $is "ConfigMap isobar-controller" }}
{{- $own := printf "${POD}.isobar-controller-peers.%s.svc" .root.Release.Namespace }}
{{- $store := list "[store]" "kind = \"etcd\"" (printf "endpoints = %s" (toJson $etcd.endpoints)) (printf "prefix = %s" (toJson $etcd.prefix)) }}
{{- if $etcd.caSecret }}
{{- $store = append $store (printf "ca_file = \"%s/ca/ca.crt\"" $files) }}
{{- end }}
{{- if $etcd.clientSecret }}
{{- $store = concat $store (list (printf "cert_file = \"%s/client/tls.crt\"" $files) (printf "key_file = \"%s/client/tls.key\"" $files)) }}
{{- end }}
{{- if $etcd.userSecret }}
{{- $store = concat $store (list "user = \"${ETCD_USER}\"" (printf "password_file = \"%s/user/password\"" $files)) }}
{{- end }}
{{- $text := index $object.data "controller.toml" }}
{{- $text = $text | replace "svc.cluster.local\"]" (printf "svc.cluster.local\", \"%s\"]\nstream_advertise = \"%s:7401\"" $own $own) }}
{{- $text = $text | replace "[kubernetes]" (printf "%s\n[kubernetes]" (join "\n" $store)) }}
{{- $_ := set $object.data "controller.toml" (printf "name = \"${POD}\"\n%s" $text) }}
{{- end }}
{{- if eq $is "StatefulSet isobar-controller" }}
{{- $_ := set $object.spec "replicas" (int $etcd.controllers) }}
{{- $_ := set $object.spec "serviceName" "isobar-controller-peers" }}
{{- $_ := set $object.spec "podManagementPolicy" "Parallel" }}
{{- $pod := $object.spec.template.spec }}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (dict "app.kubernetes.io/name" "isobar-controller")) }}
{{- $_ := set $pod "affinity" (dict "podAntiAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term))) }}
{{- $container := first $pod.containers }}
{{- $env := list (dict "name" "POD" "valueFrom" (dict "fieldRef" (dict "fieldPath" "metadata.name"))) }}
{{- $env = append $env (dict "name" "ISOBAR_AUTHORITY_KEY" "valueFrom" (dict "secretKeyRef" (dict "name" $etcd.authoritySecret "key" "key"))) }}
{{- if $etcd.userSecret }}
{{- $env = append $env (dict "name" "ETCD_USER" "valueFrom" (dict "secretKeyRef" (dict "name" $etcd.userSecret "key" "username"))) }}
{{- end }}
{{- $_ := set $container "env" (concat $container.env $env) }}
{{- range $name, $keys := dict "ca" (list "ca.crt") "client" (list "tls.crt" "tls.key") "user" (list "password") }}
{{- $secret := get $etcd (printf "%sSecret" $name) }}
{{- if $secret }}
{{- $items := list }}
{{- range $keys }}
{{- $items = append $items (dict "key" . "path" .) }}
{{- end }}
{{- $volume := printf "etcd-%s" $name }}
{{- $_ := set $pod "volumes" (append $pod.volumes (dict "name" $volume "secret" (dict "secretName" $secret "defaultMode" 288 "items" $items))) }}
{{- $_ := set $container "volumeMounts" (append $container.volumeMounts (dict "name" $volume "mountPath" (printf "%s/%s" $files $name) "readOnly" true)) }}
{{- end }}
{{- end }}
{{- end }}
{{- if eq $is "PodDisruptionBudget isobar-controller" }}
{{- $_ := unset $object.spec "minAvailable" }}
{{- $_ := set $object.spec "maxUnavailable" 1 }}
{{- end }}
{{- if eq $is "NetworkPolicy isobar-controller" }}
{{- $ports := list }}
{{- range $etcd.endpoints }}
{{- $ports = append $ports (regexFind "[0-9]+$" . | int) }}
{{- end }}
{{- $egress := list }}
{{- range append ($ports | uniq) 7401 }}
{{- $egress = append $egress (dict "port" . "protocol" "TCP") }}
{{- end }}
{{- $_ := set $object.spec "egress" (append $object.spec.egress (dict "ports" $egress)) }}
{{- end }}
{{- end }}
