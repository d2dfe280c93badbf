package config

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// What becomes of a setting (§8).
const (
	honoured = "honoured"
	ignored  = "ignored" // with one line in the log
	refused  = "refused"
)

// settings are all that kube-proxy v1.36 has: its flags, and the fields of its file, each with a value that
// is not the default. Where a flag and a field are one, both have to be treated alike.
var settings = []struct {
	flag, field string
	value       string // of the flag, and as YAML of the field
	treatment   string
}{
	{"config", "", "", honoured},
	{"write-config-to", "", "/file", honoured},
	{"cleanup", "", "true", honoured},
	{"init-only", "", "true", honoured},
	{"version", "", "true", honoured},
	{"master", "", "https://192.0.2.1", honoured},
	{"healthz-port", "", "0", honoured},
	{"metrics-port", "", "0", honoured},
	{"boot-id-file", "", "/file", ignored},
	{"machine-id-file", "", "/file", ignored},

	{"kubeconfig", "clientConnection.kubeconfig", "/file", honoured},
	{"kube-api-content-type", "clientConnection.contentType", "application/json", honoured},
	{"", "clientConnection.acceptContentTypes", "application/json", honoured},
	{"kube-api-qps", "clientConnection.qps", "50", honoured},
	{"kube-api-burst", "clientConnection.burst", "100", honoured},
	{"kube-api-burst", "clientConnection.burst", "-1", refused},

	{"v", "logging.verbosity", "5", honoured},
	{"logging-format", "logging.format", "json", honoured},
	{"logging-format", "logging.format", "klog", refused},
	{"vmodule", "", "agent=5", honoured},
	{"", "logging.vmodule", "[{filePattern: agent, verbosity: 5}]", honoured},
	{"", "logging.vmodule", "[{filePattern: '', verbosity: 5}]", refused},
	{"log-flush-frequency", "logging.flushFrequency", "7s", ignored},
	{"log-flush-frequency", "logging.flushFrequency", "-7s", refused},
	{"log-text-split-stream", "logging.options.text.splitStream", "true", ignored},
	{"log-text-info-buffer-size", "logging.options.text.infoBufferSize", "1Ki", ignored},
	{"log-json-split-stream", "logging.options.json.splitStream", "true", ignored},
	{"log-json-info-buffer-size", "logging.options.json.infoBufferSize", "1Ki", ignored},

	{"feature-gates", "", "AllowServiceExternalIPs=false", honoured},
	{"feature-gates", "", "WatchListClient=true", ignored},
	{"feature-gates", "", "NoSuchGate=true", ignored},
	{"", "featureGates", "{AllowServiceExternalIPs: false}", honoured},
	{"", "featureGates", "{WatchListClient: true}", ignored},
	{"", "featureGates", "{NoSuchGate: true}", ignored},

	{"hostname-override", "hostnameOverride", "another", honoured},
	{"bind-address", "bindAddress", "192.0.2.1", honoured},
	{"bind-address", "bindAddress", "here", refused},
	{"healthz-bind-address", "healthzBindAddress", "127.0.0.1:1", honoured},
	{"healthz-bind-address", "healthzBindAddress", "localhost:1", refused},
	{"healthz-bind-address", "healthzBindAddress", "127.0.0.1:0", refused},
	{"metrics-bind-address", "metricsBindAddress", "127.0.0.1:2", honoured},
	{"metrics-bind-address", "metricsBindAddress", "127.0.0.1:65536", refused},
	{"bind-address-hard-fail", "bindAddressHardFail", "true", honoured},
	{"profiling", "enableProfiling", "true", honoured},
	{"show-hidden-metrics-for-version", "showHiddenMetricsForVersion", "'1.35'", ignored},

	{"proxy-mode", "mode", "ebpf", honoured},
	{"proxy-mode", "mode", "iptables", ignored},
	{"proxy-mode", "mode", "nftables", ignored},
	{"proxy-mode", "mode", "ipvs", ignored},
	{"proxy-mode", "mode", "kernelspace", refused},
	{"proxy-mode", "mode", "userspace", refused},
	{"iptables-masquerade-bit", "iptables.masqueradeBit", "15", ignored},
	{"iptables-masquerade-bit", "iptables.masqueradeBit", "32", refused},
	{"masquerade-all", "iptables.masqueradeAll", "true", honoured},
	{"iptables-localhost-nodeports", "iptables.localhostNodePorts", "false", honoured},
	{"iptables-sync-period", "iptables.syncPeriod", "5s", honoured},
	{"iptables-sync-period", "iptables.syncPeriod", "-5s", refused},
	{"iptables-sync-period", "iptables.syncPeriod", "10ms", refused}, // less than the least
	{"iptables-min-sync-period", "iptables.minSyncPeriod", "5s", ignored},
	{"iptables-min-sync-period", "iptables.minSyncPeriod", "-5s", refused},
	{"", "nftables.masqueradeBit", "15", ignored},
	{"", "nftables.masqueradeBit", "32\nmode: nftables", refused},
	{"", "nftables.masqueradeAll", "true\nmode: nftables", honoured},
	{"", "nftables.syncPeriod", "5s\nmode: nftables", honoured},
	{"", "nftables.syncPeriod", "-5s\nmode: nftables", refused},
	{"", "nftables.minSyncPeriod", "5s\nmode: nftables", ignored},
	{"", "ipvs.syncPeriod", "5s\nmode: ipvs", honoured},
	{"", "ipvs.minSyncPeriod", "5s\nmode: ipvs", ignored},
	{"ipvs-sync-period", "", "5s", honoured},
	{"ipvs-min-sync-period", "", "5s", honoured}, // in another mode, as here, it has nothing to say
	{"ipvs-scheduler", "ipvs.scheduler", "lc", ignored},
	{"ipvs-exclude-cidrs", "", "192.0.2.0/24", ignored},
	{"", "ipvs.excludeCIDRs", "[192.0.2.0/24]", ignored},
	{"", "ipvs.excludeCIDRs", "[192.0.2.0]\nmode: ipvs", refused},
	{"ipvs-strict-arp", "ipvs.strictARP", "true", ignored},
	{"ipvs-tcp-timeout", "ipvs.tcpTimeout", "5s", ignored},
	{"ipvs-tcpfin-timeout", "ipvs.tcpFinTimeout", "5s", ignored},
	{"ipvs-udp-timeout", "ipvs.udpTimeout", "5s", ignored},
	{"", "ipvs.udpTimeout", "-5s\nmode: ipvs", refused},
	{"", "winkernel.networkName", "l2bridge", refused},
	{"", "winkernel.sourceVip", "192.0.2.1", refused},
	{"", "winkernel.enableDSR", "true", refused},
	{"", "winkernel.rootHnsEndpointName", "cbr0", refused},
	{"", "winkernel.forwardHealthCheckVip", "true", refused},
	{"", "windowsRunAsService", "true", refused},

	{"detect-local-mode", "detectLocalMode", "NodeCIDR", honoured},
	{"detect-local-mode", "detectLocalMode", "Guess", refused},
	{"detect-local-mode", "detectLocalMode", "BridgeInterface", refused}, // which?
	{"detect-local-mode", "detectLocalMode", "InterfaceNamePrefix", refused},
	{"pod-bridge-interface", "detectLocal.bridgeInterface", "cni0", honoured},
	{"pod-interface-name-prefix", "detectLocal.interfaceNamePrefix", "veth", honoured},
	{"cluster-cidr", "clusterCIDR", "10.244.0.0/16,fd00::/48", honoured},
	{"cluster-cidr", "clusterCIDR", "10.244.0.0", refused},
	{"cluster-cidr", "clusterCIDR", "10.244.0.0/16,10.245.0.0/16", refused},
	{"nodeport-addresses", "", "primary", honoured},
	{"", "nodePortAddresses", "[primary]", honoured},
	{"oom-score-adj", "oomScoreAdj", "-5", honoured},
	{"oom-score-adj", "oomScoreAdj", "-1001", refused},
	{"conntrack-max-per-core", "conntrack.maxPerCore", "5", honoured},
	{"conntrack-max-per-core", "conntrack.maxPerCore", "-5", refused},
	{"conntrack-min", "conntrack.min", "5", honoured},
	{"conntrack-min", "conntrack.min", "-5", refused},
	{"conntrack-tcp-timeout-established", "conntrack.tcpEstablishedTimeout", "5s", honoured},
	{"conntrack-tcp-timeout-established", "conntrack.tcpEstablishedTimeout", "-5s", refused},
	{"conntrack-tcp-timeout-close-wait", "conntrack.tcpCloseWaitTimeout", "5s", honoured},
	{"conntrack-tcp-timeout-close-wait", "conntrack.tcpCloseWaitTimeout", "-5s", refused},
	{"conntrack-tcp-be-liberal", "conntrack.tcpBeLiberal", "true", honoured},
	{"conntrack-udp-timeout", "conntrack.udpTimeout", "5s", honoured},
	{"conntrack-udp-timeout", "conntrack.udpTimeout", "-5s", refused},
	{"conntrack-udp-timeout-stream", "conntrack.udpStreamTimeout", "5s", honoured},
	{"conntrack-udp-timeout-stream", "conntrack.udpStreamTimeout", "-5s", refused},
	{"config-sync-period", "configSyncPeriod", "5s", ignored},
	{"config-sync-period", "configSyncPeriod", "-5s", refused},
	{"", "portRange", "1-2", ignored},

	// Ours.
	{"cgroup-root", "", "/dir", honoured},
	{"bpf-root", "", "/dir", honoured},
	{"bpf-root", "", "dir", refused},
	{"devices", "", "eth*", honoured},
	{"manifests", "", "/dir", honoured},
	{"north-south", "", "stack", honoured},
	{"north-south", "", "east", refused},
	{"load-balancing", "", "maglev", honoured},
	{"load-balancing", "", "best", refused},
	{"snat-ports", "", "100-200", honoured},
	{"audit-period", "", "5s", honoured},
	{"audit-period", "", "-5s", refused},
	{"snat-ports", "", "5-1", refused},
	{"snat-ports", "", "1-2-3", refused},
}

func TestSettings(t *testing.T) {
	for _, s := range settings {
		if s.flag != "" && s.flag != "config" {
			t.Run("--"+s.flag+"="+s.value, func(t *testing.T) {
				plain := mustParse(t)
				c, err := parse("--" + s.flag + "=" + s.value)
				checkTreatment(t, s.treatment, "--"+s.flag, plain, c, err)
			})
		}
		if s.field != "" {
			t.Run(s.field+": "+s.value, func(t *testing.T) {
				// Other fields that stand in the value are in both files.
				value, others, _ := strings.Cut(s.value, "\n")
				parent, text := header+others+"\n", s.field
				depth := ""
				for part := range strings.SplitSeq(text, ".") {
					parent += depth + part + ":\n"
					depth += "  "
				}
				plain := mustParse(t, "--config", writeFile(t, header+others+"\n"))
				c, err := parse("--config", writeFile(t, strings.TrimSuffix(parent, "\n")+" "+value+"\n"))
				checkTreatment(t, s.treatment, s.field, plain, c, err)
			})
		}
	}
}

func checkTreatment(t *testing.T, treatment, name string, plain, c *Config, err error) {
	t.Helper()
	if treatment == refused {
		group, _, _ := strings.Cut(name, ".") // winkernel as a whole
		if err == nil || !strings.Contains(err.Error(), name) && !(group == "winkernel" && strings.Contains(err.Error(), group)) {
			t.Errorf("error %v does not name %s", err, name)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	warnings := c.Warnings
	if treatment == ignored {
		if len(warnings) != len(plain.Warnings)+1 || !strings.Contains(strings.Join(warnings, "\n"), strings.TrimPrefix(name, "--")) {
			t.Errorf("no single line names %s: %q", name, warnings)
		}
		return
	}
	if len(warnings) != len(plain.Warnings) {
		t.Errorf("honoured, but warned about: %q", warnings)
	}
	c.flags, plain.flags, c.sum, plain.sum, c.Warnings, plain.Warnings, c.File, plain.File = flags{}, flags{}, [32]byte{}, [32]byte{}, nil, nil, "", ""
	if name != "--ipvs-sync-period" && name != "--ipvs-min-sync-period" && reflect.DeepEqual(c, plain) {
		t.Error("honoured, but it changes nothing")
	}
}

// Every flag we have, and every field of the file, is in the table.
func TestSettingsAreAll(t *testing.T) {
	flagsThere, fieldsThere := map[string]bool{}, map[string]bool{}
	for _, s := range settings {
		flagsThere[s.flag], fieldsThere[s.field] = true, true
	}
	delete(flagsThere, "")
	delete(fieldsThere, "")
	_, fs := newFlags()
	have := map[string]bool{}
	fs.VisitAll(func(f *pflag.Flag) { have[f.Name] = true })
	if diff := cmp.Diff(flagsThere, have); diff != "" {
		t.Errorf("flags: -table +ours\n%s", diff)
	}
	fields := map[string]bool{}
	leaves(reflect.TypeFor[v1alpha1.KubeProxyConfiguration](), "", fields)
	if diff := cmp.Diff(fieldsThere, fields); diff != "" {
		t.Errorf("fields: -table +kube-proxy's\n%s", diff)
	}
	for name := range besideFile {
		if !have[name] {
			t.Errorf("besideFile has --%s, which is no flag", name)
		}
	}
}

// leaves collects the fields of a file by their paths.
func leaves(of reflect.Type, path string, into map[string]bool) {
	for i := range of.NumField() {
		f := of.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && strings.Contains(options, "inline") {
			if path != "" {
				leaves(f.Type, path, into)
			}
			continue
		}
		switch {
		case name == "" || name == "-":
		case f.Type.Kind() == reflect.Struct && f.Type.Name() != "Duration" && f.Type.Name() != "TimeOrMetaDuration" && f.Type.Name() != "QuantityValue":
			leaves(f.Type, path+name+".", into)
		default:
			into[path+name] = true
		}
	}
}

// Underscores are hyphens, as for all of Kubernetes' commands.
func TestUnderscores(t *testing.T) {
	if c := mustParse(t, "--machine_id_file=/file", "--cluster_cidr=10.0.0.0/8"); c.Proxy.ClusterCIDR != "10.0.0.0/8" || len(c.Warnings) != 1 {
		t.Errorf("cluster CIDR %q, warnings %q", c.Proxy.ClusterCIDR, c.Warnings)
	}
}
