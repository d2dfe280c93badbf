package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// parse does what `svcproxy run` does with its arguments.
func parse(args ...string) (*Config, error) {
	c, fs := newFlags()
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	return c, c.Complete(fs)
}

func newFlags() (*Config, *pflag.FlagSet) {
	c := New()
	fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
	c.AddFlags(fs)
	return c, fs
}

func mustParse(t *testing.T, args ...string) *Config {
	t.Helper()
	c, err := parse(args...)
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return c
}

// header begins every configuration file.
const header = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// configMap writes the config.conf of a ConfigMap in testdata to a file, as a mount does.
func configMap(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var m struct{ Data map[string]string }
	if err := yaml.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	return writeFile(t, m.Data["config.conf"])
}

// An empty configuration and kubeadm's, which spells out zeros, mean the defaults.
func TestKubeadmConfigMap(t *testing.T) {
	c := mustParse(t, "--config", configMap(t, "kubeadm.yaml"), "--hostname-override", " Node-A ")
	if diff := cmp.Diff([]string(nil), c.Warnings); diff != "" {
		t.Errorf("warnings: -want +got\n%s", diff)
	}
	if c.Node != "node-a" || !c.PodsDetected() || !c.LocalhostNodePorts() || !c.ExternalIPs() || c.MasqueradeAll() || c.SyncPeriod() != 30*time.Second {
		t.Errorf("node %q, pods detected %v, localhost %v, external IPs %v, masquerade all %v, sync period %v",
			c.Node, c.PodsDetected(), c.LocalhostNodePorts(), c.ExternalIPs(), c.MasqueradeAll(), c.SyncPeriod())
	}
	want := New().Proxy
	want.HostnameOverride, want.ClusterCIDR, want.DetectLocalMode = "node-a", "10.244.0.0/16,fd00:10:244::/56", ModeClusterCIDR
	want.ClientConnection.Kubeconfig = "/var/lib/kube-proxy/kubeconfig.conf"
	got := c.Proxy
	got.TypeMeta = want.TypeMeta
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	prefixes, err := c.ClusterCIDRs()
	if diff := cmp.Diff([]netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/56")}, prefixes, cmpopts.EquateComparable(netip.Prefix{})); diff != "" || err != nil {
		t.Errorf("cluster CIDRs: error %v, -want +got\n%s", err, diff)
	}
}

func TestNFTablesConfigMap(t *testing.T) {
	c := mustParse(t, "--config", configMap(t, "nftables.yaml"), "--hostname-override=n", "-v=4", "--vmodule=state=6")
	p := &c.Proxy
	got := map[string]any{
		"nodePortAddresses": p.NodePortAddresses, "health": p.HealthzBindAddress, "metrics": p.MetricsBindAddress,
		"masqueradeAll": c.MasqueradeAll(), "syncPeriod": c.SyncPeriod(), "flows": c.FlowTimeouts(), "externalIPs": c.ExternalIPs(),
		"pods": c.PodsDetected(), "maxPerCore": *p.Conntrack.MaxPerCore, "oom": *p.OOMScoreAdj, "content": p.ClientConnection.ContentType,
		"format": p.Logging.Format, "v": uint32(p.Logging.Verbosity), "vmodule": p.Logging.VModule[0].FilePattern + "," + p.Logging.VModule[1].FilePattern,
		"warnings": len(c.Warnings),
	}
	want := map[string]any{
		"nodePortAddresses": []string{"primary"}, "health": "[::]:10256", "metrics": "[::1]:10249",
		"masqueradeAll": true, "syncPeriod": 10 * time.Second, "externalIPs": false,
		"flows": FlowTimeouts{TCPEstablished: 2 * time.Hour, TCPCloseWait: time.Minute, UDP: 10 * time.Second, UDPStream: 20 * time.Second},
		"pods":  true, "maxPerCore": int32(0), "oom": int32(-5), "content": "application/json",
		"format": "json", "v": uint32(4), "vmodule": "state,agent",
		"warnings": 1, // mode
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if prefixes, err := c.ClusterCIDRs(); len(prefixes) != 0 || err != nil {
		t.Errorf("cluster CIDRs %v, %v in mode NodeCIDR", prefixes, err)
	}
}

func TestFlowTimeoutsByDefault(t *testing.T) {
	want := FlowTimeouts{TCPEstablished: 24 * time.Hour, TCPCloseWait: time.Hour, UDP: 30 * time.Second, UDPStream: 2 * time.Minute}
	if diff := cmp.Diff(want, mustParse(t).FlowTimeouts()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestServerAddresses(t *testing.T) {
	for _, tc := range []struct {
		name            string
		args            []string
		health, metrics string
	}{
		{"defaults", nil, "0.0.0.0:10256", "127.0.0.1:10249"},
		{"IPv6", []string{"--bind-address=::"}, "[::]:10256", "[::1]:10249"},
		{"IPv6, others named", []string{"--bind-address=::", "--healthz-bind-address=0.0.0.0:10256", "--metrics-bind-address=127.0.0.1"}, "0.0.0.0:10256", "127.0.0.1:10249"},
		{"ports added", []string{"--healthz-bind-address=127.0.0.1", "--metrics-bind-address=::1"}, "127.0.0.1:10256", "[::1]:10249"},
		{"deprecated ports added", []string{"--healthz-bind-address=127.0.0.1", "--healthz-port=1", "--metrics-bind-address=[::1]", "--metrics-port=2"}, "127.0.0.1:1", "[::1]:2"},
		{"deprecated ports do not replace", []string{"--healthz-port=1", "--metrics-port=2"}, "0.0.0.0:10256", "127.0.0.1:10249"},
		{"off", []string{"--healthz-bind-address=", "--metrics-bind-address="}, "", ""},
		{"off by deprecated ports", []string{"--healthz-port=0", "--metrics-port=0"}, "", ""},
		{"leading zeros are decimal", []string{"--healthz-bind-address=127.0.0.010:80"}, "127.0.0.10:80", "127.0.0.1:10249"},
		{"file, family of bindAddress", []string{"--config", writeFile(t, header+"bindAddress: 'fd00::1'\n")}, "[::]:10256", "[::1]:10249"},
		{"file", []string{"--config", writeFile(t, header+"healthzBindAddress: 127.0.0.1\nmetricsBindAddress: '[::]:1'\n"), "--healthz-port=0"}, "127.0.0.1:10256", "[::]:1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := mustParse(t, tc.args...)
			if c.Proxy.HealthzBindAddress != tc.health || c.Proxy.MetricsBindAddress != tc.metrics {
				t.Errorf("health %q, metrics %q; want %q, %q", c.Proxy.HealthzBindAddress, c.Proxy.MetricsBindAddress, tc.health, tc.metrics)
			}
		})
	}
}

func TestPodsDetected(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want bool
	}{
		{nil, false},
		{[]string{"--detect-local-mode="}, false},
		{[]string{"--cluster-cidr=10.244.0.0/16"}, true},
		{[]string{"--detect-local-mode=NodeCIDR"}, true},
		{[]string{"--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"}, true},
		{[]string{"--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth"}, true},
	} {
		if got := mustParse(t, tc.args...).PodsDetected(); got != tc.want {
			t.Errorf("%v: pods detected %v, want %v", tc.args, got, tc.want)
		}
	}
}

// bindAddress is the primary address, unless it is a wildcard.
func TestNodeAddresses(t *testing.T) {
	a, b, c := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.9")
	for _, tc := range []struct {
		bind string
		want []netip.Addr
	}{
		{"0.0.0.0", []netip.Addr{a, b}},
		{"::", []netip.Addr{a, b}},
		{"192.0.2.9", []netip.Addr{c, a, b}},
		{"2001:db8::1", []netip.Addr{b, a}},
	} {
		got := mustParse(t, "--bind-address="+tc.bind).NodeAddresses([]netip.Addr{a, b})
		if diff := cmp.Diff(tc.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("%s: -want +got\n%s", tc.bind, diff)
		}
	}
}

// The node's name must be the Node object's: lower case, no blanks (§8).
func TestNodeName(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	file := writeFile(t, header+"hostnameOverride: ' From-File '\n")
	for _, tc := range []struct {
		args []string
		want string
	}{
		{nil, strings.ToLower(host)},
		{[]string{"--hostname-override= Flag "}, "flag"},
		{[]string{"--config", file}, "from-file"},
		{[]string{"--config", file, "--hostname-override=Flag"}, "flag"},
	} {
		if got := mustParse(t, tc.args...).Node; got != tc.want {
			t.Errorf("%v: node %q, want %q", tc.args, got, tc.want)
		}
	}
	if _, err := parse("--hostname-override= "); err == nil || !strings.Contains(err.Error(), "--hostname-override") {
		t.Errorf("blank name: error %v", err)
	}
}

func TestMasqueradeAllAndPeriodsAreTheModes(t *testing.T) {
	flags := []string{"--masquerade-all", "--iptables-sync-period=5s", "--ipvs-sync-period=7s"}
	for mode, want := range map[string]time.Duration{"": 5 * time.Second, "iptables": 5 * time.Second, "nftables": 5 * time.Second, "ipvs": 7 * time.Second, "ebpf": 5 * time.Second} {
		c := mustParse(t, append(flags, "--proxy-mode="+mode)...)
		if !c.MasqueradeAll() || c.SyncPeriod() != want {
			t.Errorf("mode %q: masquerade all %v, sync period %v, want true, %v", mode, c.MasqueradeAll(), c.SyncPeriod(), want)
		}
	}
}

func TestCgroup2Mounts(t *testing.T) {
	got, err := cgroup2Mounts(strings.NewReader(`25 30 0:23 / /sys/fs/cgroup ro - tmpfs tmpfs ro
30 25 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
31 25 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
32 25 0:26 /../.. /host\040cgroup rw - cgroup2 cgroup2 rw
short
`))
	if diff := cmp.Diff([]string{"/sys/fs/cgroup/unified", "/host cgroup"}, got); diff != "" || err != nil {
		t.Errorf("error %v, -want +got\n%s", err, diff)
	}
}
